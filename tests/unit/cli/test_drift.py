"""`shopstream drift`: exit codes, what it prints, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from config.settings import Settings
from sinks.retraining import Retraining
from streams import gate_report, observing
from tests import drift_shop
from tests.drift_shop import PLAN, settings_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("drift")
    drift_shop.make(home)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a reference; gates are fine and all is read, though nobody is there who could tell."""
    monkeypatch.setattr(gate_report, "standings", lambda _settings: [])
    monkeypatch.setattr(observing, "GroupLags", lambda _settings: type("Lags", (), {"read": lambda _self: []})())
    return drift_shop.copied(made, tmp_path / "home").home


def call(home: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    settings = ("training.mode=as_corrected", "drift.min_rows=50")
    options = [part for each in settings for part in ("--set", each)]
    try:
        run(["--home", str(home), *options, "drift", *arguments])
        code: Any = 0
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    return code or 0, out, err


def shop(home: Path) -> Settings:
    return settings_of(home)


def test_a_drift_is_found_asked_for_once_and_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(home, capsys, "status", "--json")
    assert code == 0
    assert json.loads(out)["words"].startswith("No window has been judged against the reference ref-")

    code, out, _ = call(home, capsys, "check", "--json")
    found = json.loads(out)
    assert code == 3
    assert [window["outcome"] for window in found["windows"]] == ["quiet"] * 8 + ["alarm"] * 5
    answers = [answer["outcome"] for window in found["windows"] for answer in window["requests"]]
    assert answers == ["requested", "suppressed", "suppressed"]
    code, out, _ = call(home, capsys, "check")
    assert (code, "No window has closed" in out) == (0, True)

    code, out, _ = call(home, capsys, "status")
    assert code == 3
    assert out.startswith("Drifted: 3 of 3 windows in a row: label_category_id: ")
    assert "under way: retraining retrain-drift-" in out
    assert "cooldown until event time" in out
    code, out, _ = call(home, capsys, "status", "--windows", "2", "--json")
    assert (code, len(json.loads(out)["windows"])) == (3, 2)

    code, out, _ = call(home, capsys, "report")
    page = home / "reports" / "drift.html"
    assert code == 0
    assert "label_category_id" in out
    assert page.read_text().startswith("<!doctype html>")
    code, out, _ = call(home, capsys, "report", "--json", "--to", str(PLAN.shifted_ms[0]))
    told = json.loads(out)
    assert (code, len(told["windows"]), told["page"]) == (0, 8, None)
    code, out, _ = call(home, capsys, "report", "--out", str(home / "other" / "x.html"), "--json")
    assert json.loads(out)["page"] == str(home / "other" / "x.html")
    assert (home / "other" / "x.html").exists()


def test_a_calibration_tells_thresholds_and_false_alarms(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first_ms, end_ms = PLAN.history_ms
    code, out, _ = call(home, capsys, "calibrate", "--from", str(first_ms), "--to", str(end_ms), "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["from_ms"], told["to_ms"]) == PLAN.history_ms
    assert told["model"] == "7"  # what serves is the same
    assert told["alarms"] <= 1
    assert 0 <= told["expected"] <= told["budget"] == 0.01
    assert told["noise"]["label_category_id"]["windows"] == 48
    code, out, _ = call(home, capsys, "calibrate", "--from", str(first_ms), "--to", str(end_ms))
    assert code == 0
    assert "Of 48 windows of history" in out.replace("\n", " ")
    code, _, err = call(home, capsys, "calibrate", "--from", str(first_ms), "--to", str(first_ms + 1))
    assert code == 1
    assert "needs 8" in err.replace("\n", " ")


def test_an_empty_lake_cannot_be_calibrated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(tmp_path, capsys, "calibrate")
    assert code == 1
    assert "holds no events" in err


def test_silence_and_its_end(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(home, capsys, "silence", "--for", "2h", "--reason", "a sale", "--json")
    until_ms = json.loads(out)["until_ms"]
    assert code == 0
    assert Retraining.from_settings(shop(home)).silenced_until_ms() == until_ms
    code, out, _ = call(home, capsys, "check", "--json")
    whys = [answer["why"] for window in json.loads(out)["windows"] for answer in window["requests"]]
    assert len(whys) == 3
    assert all("silenced" in why for why in whys)
    assert "silenced until" in call(home, capsys, "status")[1]
    assert call(home, capsys, "silence", "--for", "0s", "--reason", "it is over")[0] == 0
    assert Retraining.from_settings(shop(home)).silenced_until_ms() is None


def test_a_forced_retraining_needs_to_be_meant_and_one_at_a_time(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(home, capsys, "trigger", "--reason", "by hand")[0] == 2
    call(home, capsys, "silence", "--for", "1d", "--reason", "a sale")
    code, out, _ = call(home, capsys, "trigger", "--force", "--reason", "by hand", "--json")
    assert (code, json.loads(out)["outcome"]) == (0, "requested")
    [request] = Retraining.from_settings(shop(home)).newest()
    assert (request.cause, request.detail) == ("forced", "by hand")
    assert "raw_events" in request.evidence["lake_versions"]
    code, out, _ = call(home, capsys, "trigger", "--force", "--reason", "again")
    assert code == 3
    assert "is suppressed" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("silence", "--for", "soon", "--reason", "x"),
        ("silence", "--for", "2h"),
        ("report", "--from", "yesterday"),
        ("calibrate", "--from", "2000", "--to", "1000"),
        ("watch", "--interval", "x"),
        ("trigger", "--force"),
    ],
)
def test_wrong_use_is_2(home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert call(home, capsys, *arguments)[0] == 2


def test_whoever_cannot_know_the_gates_does_not_judge(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = drift_shop.copied(made, tmp_path / "home").home
    code, _, err = call(home, capsys, "check")
    assert code == 2  # no Redis is set
    assert "No address is set for redis" in err.replace("\n", " ")
