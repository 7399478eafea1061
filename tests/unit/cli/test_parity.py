"""`shopstream parity`: what it refuses, and how a difference is shown."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli.parity import _print
from replay.parity_report import Difference, EventSeen, Gap, GapCount, ParityReport, UserDifference, WayReport

ROOT = Path(__file__).resolve().parents[3]


def parity(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli.main", "parity", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--users", "0"], "neither a number of users nor 'all'"),
        (["--users", "some"], "neither a number of users nor 'all'"),
        (["--as-of", "2026-07-01T12:00:00"], "has no time zone"),
        (["--as-of", "noon"], "is no time"),
        ([], "No address is set for kafka"),
    ],
)
def test_wrong_use_is_exit_code_2_and_one_sentence(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = parity(tmp_path, *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_never_ran_is_a_failure(tmp_path: Path) -> None:
    done = parity(tmp_path, "--demo")
    assert done.returncode == 1
    assert "No demo has left data" in done.stderr
    assert list(tmp_path.iterdir()) == []


def report() -> ParityReport:
    states = Difference("shop.clicks.v1", None, None, {"live": "version 9, aa", "lake": "version 9, bb"})
    value = Difference(None, "click_count_5m", 1_700_000_000_000, {"live": 3, "lake": 4})
    event = EventSeen(
        "shop.clicks.v1", 0, 7, 1_700_000_000_000, "click", "e7", "p[red]", "applied", ("kafka", "lake"), is_named=True
    )
    user = UserDifference("u[1]", [states, value], [("live",), ("kafka", "lake")], ["as if e7 had not been"], [event])
    way = WayReport(2, "abc", {})
    short = GapCount("kafka", "shop.carts.v1", 1, Gap.TOO_SHORT, 3, "from offset 5 on")
    behind = GapCount("lake", "shop.carts.v1", 0, Gap.BEHIND, 1)
    return ParityReport(2, 3, 300, dict.fromkeys(("live", "kafka", "lake"), way), [short, behind], [user])


def test_a_difference_is_shown_with_its_events() -> None:
    out = io.StringIO()
    _print(Console(file=out, width=200), report().payload(5) | {"seconds": 1.5})
    text = out.getvalue()
    for part in (
        "u[1]  live | kafka = lake",
        "state of shop.clicks.v1: live version 9, aa, lake version 9, bb",
        "click_count_5m at 2023-11-14 22:13:20.000: live 3, lake 4",
        "as if e7 had not been",
        "click p[red]",
        "shop.clicks.v1-0:7",
        "incomplete: kafka of shop.carts.v1-1 (from offset 5 on) begins too late to tell of them: 3 users",
        "could not be compared: lake of shop.carts.v1-0 has not reached what the online store holds of them: 1 user",
        "2 users, 3 states, 300 values of features",
    ):
        assert part in text
    assert text.splitlines()[-1] == "differences 2"


def test_the_json_form_holds_all_of_it() -> None:
    payload = json.loads(json.dumps(report().payload(5)))
    assert (payload["differences"], payload["users_differing"]) == (2, 1)
    assert payload["first_differing"][0]["events"][0]["is_named"] is True
    assert len(payload["incomplete"]) == 2
    assert len(payload["failures"]) == 1
