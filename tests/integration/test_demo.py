"""The demo as a user runs it: a short one, one on real traffic, the story of drift, and one that is interrupted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.waiting import wait_until

pytestmark = pytest.mark.stack
ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 290.0


def command(home: Path, cache_dir: Path, *arguments: str, name: str = "demo") -> list[str]:
    flags = ["--home", str(home), "--set", f"cache_dir={cache_dir}"]
    return [sys.executable, "-m", "cli.main", *flags, name, "--json", *arguments]


def run_demo(home: Path, cache_dir: Path, *arguments: str, name: str = "demo") -> dict[str, Any]:
    done = subprocess.run(
        command(home, cache_dir, *arguments, name=name),
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    account: dict[str, Any] = json.loads(done.stdout)
    return account


def processes_of(home: Path) -> list[str]:
    """Return the command lines of processes that work under a home."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = [*(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
        if process.pid != os.getpid() and any(str(home) in word for word in words):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def assert_accounted(account: dict[str, Any]) -> None:
    parts = ("applied", "duplicates", "late", "dead_letters", "lost")
    assert account["produced"] == sum(account[part] for part in parts)
    assert account["raw_rows"] == account["produced"] - account["dead_letters"] - account["lost"]
    zeros = ("lost", "double_counted", "mismatched_features", "states_differing", "redelivered")
    assert {name: account[name] for name in zeros} == dict.fromkeys(zeros, 0)
    assert account["differences"] == []


def test_simulated_traffic_is_accounted_for(tmp_path: Path, cache_dir: Path) -> None:
    account = run_demo(tmp_path, cache_dir, "--rate", "500", "--seconds", "4", "--broken", "0.02")
    assert_accounted(account)
    assert account["produced"] == 2_000
    assert account["users_checked"] >= 200
    assert account["freshness_ms"]["samples"] > 0
    assert set(account["dead_letters_by_reason"]) >= {"undecodable", "invalid_value", "misrouted", "too_large"}
    assert processes_of(tmp_path) == []
    parity = run_demo(tmp_path, cache_dir, "--users", "all", name="parity")  # on the stack that the demo has left
    assert (parity["differences"], parity["incomplete"]) == (0, [])
    assert parity["states"] == account["states_refolded"]
    assert processes_of(tmp_path) == []


def test_real_traffic_is_accounted_for(tmp_path: Path, cache_dir: Path, rees46_file: Path) -> None:
    account = run_demo(tmp_path, cache_dir, "--rees46", str(rees46_file))
    assert_accounted(account)
    assert account["rows_read"] == 12_622
    assert account["produced"] == account["rows_read"] - account["odd_rows"]["cut_last_line"]
    assert account["duplicates"] == account["odd_rows"]["exact_duplicate"] == 5


def test_the_story_of_drift_goes_as_it_should(tmp_path: Path, cache_dir: Path) -> None:
    story = run_demo(tmp_path, cache_dir, "--drift")
    told = {step["step"]: step for step in story["steps"]}
    assert [step["outcome"] for step in story["steps"] if not step["as_told"]] == []
    names = ["shop", "history", "first model", "baseline", "stable", "null bug", "resume", "shift", "retraining"]
    assert list(told) == [*names, "canary", "promotion", "report"]
    assert (told["stable"]["requests"], told["null bug"]["requests"], told["promotion"]["requests"]) == (0, 0, 1)
    assert (told["null bug"]["halted"], told["null bug"]["carts_waiting"]) == ("shop.clicks.v1", 0)
    assert told["resume"]["states"] > 2_000
    assert told["resume"]["states_differing"] == 0
    assert told["promotion"]["model"] == "2"
    assert "label_category_id" in Path(story["report"]).read_text()
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(tmp_path: Path, cache_dir: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        command(tmp_path, cache_dir, "--seconds", "120"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as demo:
        wait_until((tmp_path / "demo" / "worker.log").exists, 120, "the demo starts no worker")
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 130
    assert b"Traceback" not in output
    wait_until(lambda: not processes_of(tmp_path), 30, lambda: f"still there: {processes_of(tmp_path)}")
