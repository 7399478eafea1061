"""`shopstream dlq`, what needs no service: lists and letters from the lake, and wrong use."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cli.dlq_views import preview
from cli.main import run
from schemas.event import CLICKS_TOPIC
from sinks.letter_reads import LogPosition
from sinks.redrives import Attempt, RedriveLog
from tests.letters import EPOCH, NOW_MS, TOPICS, event, refused, value, write

TOPIC_ID = TOPICS[CLICKS_TOPIC].topic_id


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three letters: one that no schema can read, one misrouted, and one that was redriven and failed again."""
    for name in [name for name in os.environ if name.startswith("SHOPSTREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    lake = tmp_path / "lake"
    misrouted = value(event())
    write(lake, [refused(1, b"u1", b"[junk]\x00"), refused(2, b"x", misrouted), refused(3, b"x", misrouted)])
    write(lake, events={9: event()})
    with RedriveLog(lake) as log:
        letter = LogPosition(TOPIC_ID, CLICKS_TOPIC, 0, 2)
        log.note([Attempt(letter, EPOCH, "misrouted", 1, letter, TOPIC_ID, 0, 3, NOW_MS, 3)])
    return lake


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(["--set", "lake.path=lake", "dlq", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.usefixtures("lake")
def test_a_list_counts_and_shows_the_newest_first(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "list")
    assert (listed["letters"], listed["by_reason"]) == (2, {"misrouted": 1, "undecodable": 1})
    assert listed["by_fate"] == {"open": 2, "failed_again": 1}
    assert [(row["offset"], row["redriven_before"]) for row in listed["shown"]] == [(3, 1), (1, 0)]
    everything = answer(capsys, "list", "--fate", "all", "--limit", "1")
    assert (everything["letters"], [row["offset"] for row in everything["shown"]]) == (3, [3])
    assert answer(capsys, "list", "--fate", "failed_again")["shown"][0]["offset"] == 2
    assert answer(capsys, "list", "--reason", "undecodable", "--partition", "0")["letters"] == 1
    assert answer(capsys, "list", "--from", str(NOW_MS))["letters"] == 0
    _, text, _ = call(capsys, "list", "--limit", "1")
    assert "and 1 older ones" in text
    assert "by fate: open 2, failed_again 1" in text


@pytest.mark.usefixtures("lake")
def test_a_letter_is_shown_with_its_bytes_and_history(capsys: pytest.CaptureFixture[str]) -> None:
    shown = answer(capsys, "show", f"{CLICKS_TOPIC}/0/3")
    assert base64.b64decode(shown["value_base64"]) == value(event())
    assert (shown["reason"], shown["fate"], shown["key"]) == ("misrouted", "open", "x")
    assert shown["decoded"] == {"fields": None, "why_not": "No schema registry is set."}
    assert [(row["attempt"], row["letter"], row["published_to"]) for row in shown["history"]] == [
        (1, f"{CLICKS_TOPIC}/0/2", f"{CLICKS_TOPIC}/0/3")
    ]
    code, text, _ = call(capsys, "show", CLICKS_TOPIC, "0", "1")
    assert code == 0
    assert "5b 6a 75 6e 6b 5d 00" in text
    assert "[junk]." in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--from", "2026-11-23T12:00"], "has no time zone"),
        (["list", "--to", "soon"], "is no time"),
        (["list", "--reason", "odd"], "is none of undecodable"),
        (["list", "--topic", "odd"], "is none of shop.clicks.v1"),
        (["list", "--fate", "odd"], "is none of open"),
        (["show", "odd"], "is not TOPIC/PARTITION/OFFSET"),
        (["redrive", "t/0/1", "--topic", CLICKS_TOPIC], "not both"),
    ],
)
@pytest.mark.usefixtures("lake")
def test_wrong_use_is_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, *arguments)
    assert (code, said in " ".join(err.replace("│", " ").split())) == (2, True)


@pytest.mark.usefixtures("lake")
def test_a_letter_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "show", f"{CLICKS_TOPIC}/0/77")
    assert (code, "The lake holds no dead letter shop.clicks.v1/0/77." in err) == (1, True)


def test_a_lake_without_letters_is_an_empty_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer(capsys, "list")["letters"] == 0


def test_a_preview_shows_both_forms_and_says_what_it_leaves_out() -> None:
    assert preview(b"") == ""
    assert preview(b"ab\x00") == "000000  61 62 00" + " " * 39 + "  ab."
    assert preview(b"x" * 20, 17).splitlines()[1:] == [
        "000010  78" + " " * 45 + "  x",
        "and 3 more bytes: see --json",
    ]
