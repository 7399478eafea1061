"""`shopstream lake maintain` as it is typed: what it prints, its exit codes, and that it needs no service at all."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from config.errors import SettingsError
from sinks.errors import LakeBusyError
from sinks.lake import LakeSink
from sinks.maintenance import exclusive
from tests.rows import flush


@pytest.fixture
def home(tmp_path: Path) -> Path:
    sink = LakeSink(tmp_path / "lake")
    for offset in range(4):
        sink.write([flush([offset], features=[offset], letters=[offset])])
    return tmp_path


def test_a_run_reports_each_table_and_tells_its_progress_apart(home: Path) -> None:
    done = CliRunner().invoke(app, ["--home", str(home), "lake", "maintain", "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert report["retention_hours"] == 168
    assert {table["name"]: table["merged_files"] for table in report["tables"]} == {
        "raw_events": 4,
        "feature_log": 4,
        "dead_letters": 4,
    }
    assert report["tables"][0]["before"]["files"] == 4
    assert report["tables"][0]["after"]["files"] == 1
    assert "raw_events 2023-11-14: 4 files merged into 1" in done.stderr


def test_a_dry_run_is_told_in_words(home: Path) -> None:
    done = CliRunner().invoke(app, ["--home", str(home), "lake", "maintain", "--dry-run"])
    assert done.exit_code == 0
    assert "raw_events: 4 small files would be merged (days: 1), 0 files would be deleted." in done.stdout


def test_a_home_without_a_lake_is_no_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--home", str(tmp_path), "lake", "maintain"])
    assert done.exit_code == 0
    assert "no table yet" in done.stdout


def test_a_retention_below_the_smallest_is_wrong_use(home: Path) -> None:
    arguments = ["--home", str(home), "--set", "lake.retention_hours=1", "lake", "maintain"]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, SettingsError)
    assert "lake.retention_hours" in done.exception.message
    assert "greater than or equal to 24" in done.exception.message


def test_a_second_run_says_who_is_in_the_way(home: Path) -> None:
    with exclusive(home / "lake"):
        done = CliRunner().invoke(app, ["--home", str(home), "lake", "maintain"])
    assert isinstance(done.exception, LakeBusyError)
    assert str(home / "lake") in done.exception.message
