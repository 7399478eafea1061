"""An erased user leaves the training sets: each is written anew as a whole, with a manifest that tells of it."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import parquet

from replay.erase import SetErasure
from schemas.privacy import Pseudonyms
from sinks.delta import open_or_create
from sinks.derived_tables import TRAINING_SETS
from sinks.erasures import Tombstones
from sinks.tables import arrow_schema
from training.errors import TrainingError
from training.set_erasing import erase_from_sets
from training.set_files import MANIFEST, SetFormat, new_folder, sha256, write_manifest, write_rows

KEY = Pseudonyms(b"a key of the tests, long enough")
VICTIM = "the-one-who-leaves"
UNTIL_MS = 1_000
TOMBSTONES = Tombstones(pseudonyms=KEY, noted_ms={KEY.subject(VICTIM): UNTIL_MS})


def made(lake: Path, out: Path, kind: SetFormat, rows: list[tuple[str, int]]) -> None:
    users, labels = zip(*rows, strict=True)
    table = pa.table({"user_id": list(users), "label_ms": pa.array(labels, pa.int64()), "value": [0.5] * len(rows)})
    with new_folder(out, overwrite=True) as (folder, publish):
        manifest: dict[str, Any] = {"set_id": out.name, "format": kind.value, "rows": len(rows)}
        manifest["files"] = write_rows(folder, table, kind)
        write_manifest(folder, manifest)
        publish()
    noted(lake, out, kind)


def noted(lake: Path, out: Path, kind: SetFormat) -> None:
    row: dict[str, Any] = {field.name: 1 for field in arrow_schema(TRAINING_SETS)}
    row |= dict.fromkeys(("set_id", "mode", "manifest"), "x") | {
        "path": str(out),
        "format": kind.value,
        "created_date": 1,
    }
    schema = arrow_schema(TRAINING_SETS)
    columns = [
        pa.array([row[f.name]], pa.int32()).cast(f.type)
        if f.name == "created_date"
        else pa.array([row[f.name]], f.type)
        for f in schema
    ]
    write_deltalake(
        open_or_create(lake / TRAINING_SETS.name, TRAINING_SETS),
        pa.Table.from_arrays(columns, schema=schema),
        mode="append",
    )


def rows_of(out: Path, kind: SetFormat) -> list[tuple[str, int]]:
    table = DeltaTable(out).to_pyarrow_table() if kind is SetFormat.DELTA else parquet.read_table(out)
    return [(row["user_id"], row["label_ms"]) for row in table.to_pylist()]


def nobody(_: str) -> None:
    pass


@pytest.mark.parametrize("kind", list(SetFormat))
def test_a_set_is_written_anew_without_the_rows_from_before(tmp_path: Path, kind: SetFormat) -> None:
    lake, out, clean = tmp_path / "lake", tmp_path / "set", tmp_path / "clean"
    rows = [("u1", 1), (VICTIM, 999), ("u1", 3), (VICTIM, UNTIL_MS), (VICTIM, UNTIL_MS + 1)]
    made(lake, out, kind, rows)
    made(lake, out, kind, rows)  # noted twice, looked at once
    made(lake, clean, kind, [("u1", 1)])
    before = sha256(clean / MANIFEST)
    noted(lake, tmp_path / "gone", kind)
    told: list[str] = []
    found = erase_from_sets(lake, TOMBSTONES, told.append)
    assert list(found) == [
        SetErasure(str(clean), 0, "clean"),
        SetErasure(str(tmp_path / "gone"), 0, "gone"),
        SetErasure(str(out), 2, "written anew"),
    ]
    assert told == [f"training set {out}: 2 rows erased"]
    assert rows_of(out, kind) == [("u1", 1), ("u1", 3), (VICTIM, UNTIL_MS + 1)]
    manifest = json.loads((out / MANIFEST).read_text())
    assert (manifest["set_id"], manifest["rows"], [each["rows"] for each in manifest["erasures"]]) == ("set", 3, [2])
    files = {path for path in out.rglob("*") if path.suffix in {".parquet", ".json"} and path.name != MANIFEST}
    assert {out / file["path"]: file["sha256"] for file in manifest["files"]} == {file: sha256(file) for file in files}
    assert sha256(clean / MANIFEST) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "lake", "set"]
    assert [each.outcome for each in erase_from_sets(lake, TOMBSTONES, nobody)] == ["clean", "gone", "clean"]


def test_pseudonyms_in_a_set_are_found(tmp_path: Path) -> None:
    made(tmp_path / "lake", tmp_path / "set", SetFormat.PARQUET, [(KEY.of(VICTIM), 5), (KEY.of("u1"), 5)])
    (found,) = erase_from_sets(tmp_path / "lake", TOMBSTONES, nobody)
    assert found.rows == 1
    assert rows_of(tmp_path / "set", SetFormat.PARQUET) == [(KEY.of("u1"), 5)]


def test_a_set_of_nobody_else_is_left_empty(tmp_path: Path) -> None:
    made(tmp_path / "lake", tmp_path / "set", SetFormat.PARQUET, [(VICTIM, 5)])
    (found,) = erase_from_sets(tmp_path / "lake", TOMBSTONES, nobody)
    assert (found.rows, rows_of(tmp_path / "set", SetFormat.PARQUET)) == (1, [])


def test_a_run_that_dies_leaves_the_set_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, out = tmp_path / "lake", tmp_path / "set"
    made(lake, out, SetFormat.PARQUET, [(VICTIM, 5), ("u1", 5)])

    def dies(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.set_files.write_manifest", dies)
        with pytest.raises(KeyboardInterrupt):
            erase_from_sets(lake, TOMBSTONES, nobody)
    assert rows_of(out, SetFormat.PARQUET) == [(VICTIM, 5), ("u1", 5)]
    out.rename(tmp_path / ".set.0123.former")  # killed between the two renames
    (found,) = erase_from_sets(lake, TOMBSTONES, nobody)
    assert (found.rows, rows_of(out, SetFormat.PARQUET)) == (1, [("u1", 5)])
    (tmp_path / ".set.0123.former").mkdir()  # killed after them
    (found,) = erase_from_sets(lake, TOMBSTONES, nobody)
    assert found.outcome == "clean"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake", "set"]


def test_a_set_that_cannot_be_read_is_told_and_stands_in_the_way(tmp_path: Path) -> None:
    made(tmp_path / "lake", tmp_path / "set", SetFormat.PARQUET, [(VICTIM, 5)])
    (tmp_path / "set" / "part-0.parquet").write_bytes(b"half")
    with pytest.raises(TrainingError, match="cannot be read"):
        erase_from_sets(tmp_path / "lake", TOMBSTONES, nobody)


def test_a_lake_without_sets_has_none_to_look_at(tmp_path: Path) -> None:
    assert list(erase_from_sets(tmp_path, TOMBSTONES, nobody)) == []
