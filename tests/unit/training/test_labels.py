"""Labels of files: what is taken, and what is refused by its row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.logs import NOON
from training.errors import LabelsError
from training.labels import read_labels

TIMES = ["2023-11-15T12:00:00Z", "2023-11-15T13:00:00.0019+01:00", "2023-11-15 12:00:01Z"]


def csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_csv_file_keeps_ids_as_typed_and_carries_its_columns(tmp_path: Path) -> None:
    lines = [f"00{n},{time},{n},{n % 2 == 0}" for n, time in enumerate(TIMES)]
    labels = read_labels(csv(tmp_path / "labels.csv", "user_id,event_timestamp,bought,kept", *lines))
    assert labels.user_ids.to_pylist() == ["000", "001", "002"]
    assert labels.instants_ms.tolist() == [NOON, NOON + 1, NOON + 1_000]
    assert labels.carried.column_names == ["event_timestamp", "bought", "kept"]
    assert labels.carried.column("bought").to_pylist() == [0, 1, 2]
    assert labels.source["rows"] == len(labels) == 3
    assert len(labels.source["sha256"]) == 64


def test_the_kinds_of_times_of_parquet(tmp_path: Path) -> None:
    instants = [NOON, NOON + 1]
    users = pa.array([7, 8], pa.int64())
    zoned = pa.array([instant * 1_000 + 999 for instant in instants], pa.timestamp("us", tz="Europe/Paris"))
    first = read_labels(parquet(tmp_path / "a", user_id=users, time=zoned))
    assert (first.user_ids.to_pylist(), first.instants_ms.tolist()) == (["7", "8"], instants)
    second = read_labels(parquet(tmp_path / "b", user_id=users, at_ms=pa.array(instants)), time_column="at_ms")
    assert second.instants_ms.tolist() == instants
    texts = pa.array(["2023-11-15T12:00:00Z", "2023-11-15T12:00:00.001+00"])
    assert read_labels(parquet(tmp_path / "c", user_id=users, timestamp=texts)).instants_ms.tolist() == instants


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["a,", "b,2023-11-15T12:00:00Z"], r"1 of 2 labels of .* have no time in event_timestamp; the first is row 1"),
        (["a,2023-11-15T12:00:00", "b,2023-11-15T12:00:00"], r"2 of 2 labels .* time without a zone .* row 1\. Add Z"),
        (["a,2023-11-15T12:00:00Z", "b,2023-11-15T12:00:00"], r"1 of 2 labels .* time without a zone .* row 2\."),
        (["a,2023-11-15T12:00:00Z", "b,2023-11-15"], r"1 of 2 labels .* time without a zone .* row 2\."),
        (["a,2023-11-15T12:00:00Z", "b,noon"], r"1 of 2 labels .* something else than a time .* row 2\."),
        ([",2023-11-15T12:00:00Z", "b,2023-11-15T12:00:00Z"], r"1 of 2 labels .* have no user_id; .* row 1\."),
        ([], "holds no labels"),
        (["a,17"], "holds int64, and no times"),
        (["a,2023-11-15"], "holds date32.*, and no times"),
    ],
)
def test_labels_that_could_be_misread_are_refused(tmp_path: Path, lines: list[str], told: str) -> None:
    path = csv(tmp_path / "labels.csv", "user_id,event_timestamp", *lines)
    with pytest.raises(LabelsError, match=told):
        read_labels(path)


def test_naive_times_of_parquet_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p", user_id=["a", "b"], time=pa.array([NOON, NOON], pa.timestamp("ms")))
    with pytest.raises(LabelsError, match=r"2 of 2 labels of .*p have a time without a zone in time; the first is row"):
        read_labels(path)


def test_files_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"has no column user_id\. It has who, time"):
        read_labels(csv(tmp_path / "a", "who,time", "x,2023-11-15T12:00:00Z"))
    with pytest.raises(LabelsError, match=r"has no time column.*--time-column"):
        read_labels(csv(tmp_path / "b", "user_id,when", "x,2023-11-15T12:00:00Z"))
    with pytest.raises(LabelsError, match="has no column when"):
        read_labels(csv(tmp_path / "c", "user_id,time", "x,2023-11-15T12:00:00Z"), time_column="when")
    with pytest.raises(LabelsError, match=r"named as columns of the set are: session_open"):
        read_labels(csv(tmp_path / "d", "user_id,time,session_open", "x,2023,1"), reserved={"session_open"})
    with pytest.raises(LabelsError, match="cannot be read: No such file"):
        read_labels(tmp_path / "missing")
    (tmp_path / "e").write_bytes(b"PAR1 and then nothing of the kind")
    with pytest.raises(LabelsError, match="neither Parquet nor CSV"):
        read_labels(tmp_path / "e")
