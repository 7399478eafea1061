"""The commands about definition versions: what they print, and how they end."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app, run
from features.finalize import finalize
from schemas.event import CLICKS_TOPIC
from sinks.feature_history import HistoryAppender
from sinks.lake_reads import PartitionLog
from tests.rows import NOON_MS

LOG = PartitionLog("clicks:4", CLICKS_TOPIC, 0)


def write(lake: Path, version: int, **values: Any) -> None:
    """Write two rows of a version: of two users, with the values of nobody but those given for the second."""
    rows = [finalize({}, NOON_MS), {**finalize({}, NOON_MS), **values}]
    columns = {
        "user_id": ["u0", "u1"],
        "offset": [0, 1],
        "append_time_ms": [NOON_MS, NOON_MS],
        "event_time_ms": [NOON_MS, NOON_MS],
        "outcome": ["applied", "applied"],
        **{name: [row[name] for row in rows] for name in rows[0]},
    }
    appender = HistoryAppender(lake, version)
    appender.append({LOG: appender.rows("run", LOG, columns)})


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".shopstream" / "lake"


def test_equal_versions_agree(lake: Path) -> None:
    for version in (1, 2):
        write(lake, version)
    result = CliRunner().invoke(app, ["features", "compare", "--with", "2", "--check"])
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
    assert "No value differs." in result.stdout


def test_a_difference_is_shown_and_ends_with_3_only_where_it_is_checked(lake: Path) -> None:
    write(lake, 1, click_count_5m=3)
    write(lake, 2, click_count_5m=4)
    shown = CliRunner().invoke(app, ["features", "compare", "--with", "2"])
    assert shown.exit_code == 0
    assert "click_count_5m" in shown.stdout
    told = CliRunner().invoke(app, ["features", "compare", "--with", "2", "--check", "--json"])
    assert told.exit_code == 3
    payload = json.loads(told.stdout)
    assert (payload["events"], payload["users"], payload["complete"]) == (2, 2, True)
    (example,) = payload["features"]["click_count_5m"]["examples"]
    assert (example["user_id"], example["offset"], example["here"], example["there"]) == ("u1", 1, 3, 4)


def test_rows_that_one_version_lacks_are_told_and_checked(lake: Path) -> None:
    write(lake, 1)
    write(lake, 2)
    more = HistoryAppender(lake, 2)
    empty = {name: [value] for name, value in finalize({}, NOON_MS).items()}
    own = {"user_id": ["u0"], "offset": [2], "append_time_ms": [NOON_MS], "event_time_ms": [NOON_MS]}
    more.append({LOG: more.rows("run", LOG, {**empty, **own, "outcome": ["late"]})})
    result = CliRunner().invoke(app, ["features", "compare", "--with", "2", "--check"])
    assert result.exit_code == 3
    assert "1 more events have a row of version 2 only." in result.stdout


def test_a_version_that_there_is_not_is_told_with_those_that_there_are(
    lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(lake, 1)
    with pytest.raises(SystemExit) as ended:
        run(["features", "compare", "--with", "7"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert "no row of definition version 7; there is 1." in " ".join(err.split())


def test_a_version_is_a_number_from_1_on(lake: Path) -> None:
    assert not lake.exists()
    assert CliRunner().invoke(app, ["features", "compare", "--with", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["features", "retire", "old"]).exit_code == 2
