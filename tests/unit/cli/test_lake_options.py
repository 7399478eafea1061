"""`--lake-version` and `--lake-time` as they are typed: what they choose, and what is refused in one sentence."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from deltalake import DeltaTable
from typer.testing import CliRunner

from cli.lake_options import chosen_lake
from cli.main import app
from config.settings import Settings, load_settings
from sinks.errors import LakeVersionError
from sinks.lake import LakeSink
from sinks.lake_root import Lake, LakeRoot
from sinks.tables import DEAD_LETTERS
from tests.rows import flush


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home whose lake has three letters, one per version."""
    sink = LakeSink(tmp_path / "lake")
    for offset in range(3):
        sink.write([flush([10 + offset], letters=[offset], last_offset=10 + offset)])
    return tmp_path


def letters(home: Path, *options: str) -> int:
    arguments = ["--home", str(home), "dlq", "list", "--fate", "all", *options, "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return int(json.loads(done.stdout)["letters"])


def test_a_command_reads_the_lake_as_it_was(home: Path) -> None:
    assert letters(home) == 3
    assert [letters(home, "--lake-version", str(version)) for version in range(4)] == [0, 1, 2, 3]
    assert letters(home, "--lake-version", "dead_letters=2", "--lake-version", "raw_events=1") == 2
    assert letters(home, "--lake-time", "-1h") == 0
    assert letters(home, "--lake-time", datetime.now(UTC).isoformat()) == 3


def settings_of(home: Path) -> Settings:
    return load_settings({"home": str(home)})


def pin_of(lake: Lake) -> tuple[dict[str, int], datetime | None]:
    assert isinstance(lake, LakeRoot)
    return dict(lake.pin.versions), lake.pin.instant


def test_the_other_tables_are_read_as_of_when_the_named_version_was_written(home: Path) -> None:
    log = home / "lake" / "raw_events" / "_delta_log" / "00000000000000000001.json"
    written_ms = next(
        json.loads(line)["commitInfo"]["timestamp"] for line in log.read_text().splitlines() if "commitInfo" in line
    )
    versions, instant = pin_of(chosen_lake(settings_of(home), ["1"], None))
    assert versions == {"raw_events": 1}
    assert instant == datetime.fromtimestamp(written_ms / 1000, UTC)
    hour_ago = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    versions, instant = pin_of(chosen_lake(settings_of(home), ["2"], hour_ago.isoformat(), table=DEAD_LETTERS.name))
    assert (versions, instant) == ({"dead_letters": 2}, hour_ago)


def test_without_them_the_lake_is_read_as_it_is(home: Path) -> None:
    assert chosen_lake(settings_of(home), None, None) == home / "lake"


@pytest.mark.parametrize(
    ("versions", "instant", "why"),
    [
        (["one"], None, "'one' is neither N nor TABLE=N"),
        (["-1"], None, "'-1' is neither N nor TABLE=N"),
        (["no_table=1"], None, "'no_table' is none of the tables"),
        (["erasures=1"], None, "'erasures' is none of the tables"),
        (["1", "raw_events=2"], None, "two versions of raw_events"),
        (None, "yesterday", "yesterday"),
        (None, "2026-01-01T00:00:00", "zone"),
        (None, "32503680000000", "has not come yet"),
        (None, "9" * 30, "has not come yet"),
    ],
)
def test_what_cannot_be_meant_is_wrong_use(
    home: Path, versions: Sequence[str] | None, instant: str | None, why: str
) -> None:
    with pytest.raises(typer.BadParameter, match=why):
        chosen_lake(settings_of(home), versions, instant)


def test_a_version_that_is_not_there_is_told_with_those_that_are(home: Path) -> None:
    with pytest.raises(LakeVersionError, match=r"never written.*the newest is 3"):
        chosen_lake(settings_of(home), ["77"], None)
    assert DeltaTable(home / "lake" / "raw_events").version() == 3
