"""`shopstream train set`: exit codes, what it prints, what it refuses."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cli.main import run
from config.settings import load_settings
from tests.logs import HOUR, MINUTE, NOON, event
from tests.recorded_lakes import RecordedLake
from training.set_files import MANIFEST

CORRECTED = ("--mode", "as_corrected")


def call(home: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(["--home", str(home), "--set", "registry.url=", "train", "set", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def lake(tmp_path: Path) -> RecordedLake:
    """A user who looks at a page and buys; `home/set` is where the tests put their sets."""
    made = RecordedLake(load_settings({"home": tmp_path / "home"}).lake_path)
    made.arrive(event(0), at_ms=NOON)
    made.arrive(event(HOUR, "purchase"), at_ms=NOON + HOUR)
    made.write()
    return made


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_set_is_made_and_told(lake: RecordedLake, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "set"
    code, text, _ = call(home, capsys, *CORRECTED, "--events", "purchase", "--out", str(out), "--json")
    told = json.loads(text)
    assert (code, told["rows"], told["out"]) == (0, 1, str(out))
    assert told["files"] == json.loads((out / MANIFEST).read_text())["files"]
    (row,) = pq.read_table(out).to_pylist()
    assert (row["page_view_count_24h"], row["purchase_count_24h"]) == (1, 0)
    code, text, _ = call(home, capsys, *CORRECTED, "--events", "purchase", "--out", str(out), "--overwrite")
    assert code == 0
    assert "as_corrected, definition version" in text


def test_the_lake_can_be_read_as_it_was(lake: RecordedLake, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake.arrive(event(MINUTE, event_id="straggler"), at_ms=NOON + 2 * HOUR)
    lake.write()
    views = {}
    for version in ("1", "2"):
        out = home / f"set-{version}"
        arguments = ("--events", "purchase", "--out", str(out), "--lake-version", version, "--json")
        code, text, _ = call(home, capsys, *CORRECTED, *arguments)
        assert (code, json.loads(text)["lake"]["versions"]["raw_events"]) == (0, int(version))
        (row,) = pq.read_table(out).to_pylist()
        views[version] = row["page_view_count_24h"]
    assert views == {"1": 1, "2": 2}
    code, _, err = call(home, capsys, *CORRECTED, "--events", "purchase", "--out", str(home / "x"), "--lake-version=9")
    assert code == 1
    assert "raw_events cannot be read at version 9: it was never written" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("--mode", "as_was", "--events", "purchase"), 2, "'as_was' is none of as_served, as_corrected"),
        (CORRECTED, 2, "give either --labels FILE or --events KIND"),
        ((*CORRECTED, "--events", "purchase", "--labels", "x"), 2, "give either --labels FILE or --events KIND"),
        ((*CORRECTED, "--events", "purchase", "--format", "csv"), 2, "'csv' is none of parquet, delta"),
        ((*CORRECTED, "--events", "purchase", "--time-column", "t"), 2, "it needs --labels"),
        ((*CORRECTED, "--events", "purchase", "--from", "2023-11-15T12:00:00"), 2, "zone"),
        ((*CORRECTED, "--events", "purchase", "--from", str(NOON), "--to", str(NOON)), 1, "The range is empty"),
        ((*CORRECTED, "--events", "purchase", "--out", "s3://sets/1"), 2, "a set is written to a local disk"),
        ((*CORRECTED, "--events", "purchase", "--definition-version", "7"), 1, "Definition version 7 is not there"),
        ((*CORRECTED, "--labels", "/nowhere/labels.csv"), 1, "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence_and_nothing_is_written(
    lake: RecordedLake,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    why: str,
) -> None:
    before = files(home)
    found, text, err = call(home, capsys, "--out", str(home / "set"), *arguments)
    assert (found, text) == (code, "")
    assert why in " ".join(err.replace("│", " ").split())
    assert files(home) == before
    assert not (home / "set").exists()


def test_what_lies_there_stays(lake: RecordedLake, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "set").mkdir()
    code, _, err = call(home, capsys, *CORRECTED, "--events", "purchase", "--out", str(home / "set"))
    assert code == 1
    assert "exists already" in err
    code, _, err = call(home, capsys, *CORRECTED, "--events", "purchase", "--out", str(home / "set"), "--overwrite")
    assert code == 1
    assert "is no training set" in err
    assert list((home / "set").iterdir()) == []
