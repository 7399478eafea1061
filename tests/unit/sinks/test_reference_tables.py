from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyarrow import parquet as pq

from quality.known_ids import KnownIds
from schemas.event import CLICKS_TOPIC
from schemas.privacy import Pseudonyms
from sinks.erasing import TableEraser
from sinks.erasures import REQUESTED, ErasureRow, tombstones_of
from sinks.errors import LakePinnedError, ReferenceFileError
from sinks.lake_root import Pin, pinned
from sinks.noting import noted
from sinks.quality_tables import REFERENCE_CATEGORIES, REFERENCE_PRODUCTS, REFERENCE_TABLES, REFERENCE_USERS
from sinks.reference_tables import ReferenceStanding, load_references, loaded_references
from streams.gate_counting import REFERENCES
from streams.gate_sources import LakeTables
from tests.privacy_search import lake_contents

T0 = 1_700_000_000_000
KEY = Pseudonyms(b"a key of the tests, long enough")


def written(folder: Path, text: str, name: str = "file.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_becomes_a_table_and_says_what_was_left_out(tmp_path: Path) -> None:
    text = '\ufeffname,product_id,category_id\n"a\nb",p1,c1\nx,p2,\nx,,c1\nx,p1,c9\nx\n\nx,p3,c2,more\n'
    report = load_references(tmp_path / "lake", "products", written(tmp_path, text), now_ms=T0)
    assert (report.row_count, report.duplicate_count, report.empty_count) == (3, 1, 2)
    assert report.empty_lines == [5, 7], "a text over two lines and its header come before"
    rows = noted(tmp_path / "lake", REFERENCE_PRODUCTS)
    assert [(row["product_id"], row["category_id"], row["loaded_ms"]) for row in rows] == [
        ("p1", "c1", T0),
        ("p2", None, T0),
        ("p3", "c2", T0),
    ]
    assert str(rows[0]["loaded_date"]) == "2023-11-14"


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7, None, 8, 7], pa.int64()),
        pa.array(["7", "", "8", "7"]).dictionary_encode(),
        pa.array(["7", "", "8", "7"], pa.large_string()),
    ],
)
def test_parquet_is_read_whatever_its_ids_are_written_as(tmp_path: Path, ids: pa.Array) -> None:
    path = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"category_id": ids, "more": [1.0] * 4}), path)
    report = load_references(tmp_path / "lake", "categories", path)
    assert (report.row_count, report.duplicate_count, report.empty_lines) == (2, 1, [2])
    assert {row["category_id"] for row in noted(tmp_path / "lake", REFERENCE_CATEGORIES)} == {"7", "8"}


def test_a_load_replaces_the_table_in_one_version(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    first = load_references(lake, "users", written(tmp_path, "user_id\nu1\nu2\n"), now_ms=T0)
    second = load_references(lake, "users", written(tmp_path, "user_id\nu2\nu3\n"), now_ms=T0 + 5)
    assert second.version == first.version + 1
    assert {row["user_id"] for row in noted(lake, REFERENCE_USERS)} == {"u2", "u3"}
    assert loaded_references(lake) == [
        ReferenceStanding("products"),
        ReferenceStanding("categories"),
        ReferenceStanding("users", 2, T0 + 5, second.version),
    ]


def test_users_are_held_as_every_store_holds_them(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    report = load_references(lake, "users", written(tmp_path, "user_id\nann\n"), pseudonyms=KEY)
    assert report.is_pseudonymised
    assert [row["user_id"] for row in noted(lake, REFERENCE_USERS)] == [KEY.of("ann")]
    assert not any(b"ann" in content for _, content in lake_contents(lake))
    products = load_references(lake, "products", written(tmp_path, "product_id\np1\n"), pseudonyms=KEY)
    assert not products.is_pseudonymised
    assert [row["product_id"] for row in noted(lake, REFERENCE_PRODUCTS)] == ["p1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no column user_id: it is empty"),
        (b"user;name\nu1;x\n", "no column user_id: it has user;name"),
        (b"user_id\n", "holds no user_id"),
        (b"user_id,name\n,x\n", "holds no user_id"),
        (b"user_id\nu1\n\xff\n", "cannot be read after line"),
        (b'user_id\nu1\n"u2\n', "cannot be read after line"),
    ],
)
def test_a_file_that_cannot_be_meant_changes_nothing(tmp_path: Path, content: bytes, said: str) -> None:
    lake, path = tmp_path / "lake", tmp_path / "users.csv"
    load_references(lake, "users", written(tmp_path, "user_id\nu9\n"))
    path.write_bytes(content)
    with pytest.raises(ReferenceFileError, match=said):
        load_references(lake, "users", path)
    assert [row["user_id"] for row in noted(lake, REFERENCE_USERS)] == ["u9"]


def test_parquet_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    path.write_bytes(b"user_id\nu1\n")
    with pytest.raises(ReferenceFileError, match="no Parquet file"):
        load_references(tmp_path / "lake", "users", path)
    pq.write_table(pa.table({"user_id": [1.5]}), path)
    with pytest.raises(ReferenceFileError, match="holds double"):
        load_references(tmp_path / "lake", "users", path)
    with pytest.raises(ReferenceFileError, match=r"cannot be read: .*No such file"):
        load_references(tmp_path / "lake", "users", tmp_path / "none.parquet")
    assert not (tmp_path / "lake").exists()


def test_a_table_is_emptied_only_when_asked_for(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    load_references(lake, "categories", written(tmp_path, "category_id\nc1\n"))
    report = load_references(lake, "categories", written(tmp_path, "category_id\n"), is_empty_allowed=True)
    assert report.row_count == 0
    assert loaded_references(lake)[1] == ReferenceStanding("categories", 0, None, report.version)
    known = LakeTables(lake).newest()["category_id"]
    assert known is not None, "an empty table is not a missing one"
    assert known.unknown({"c1"}) == {"c1"}


def test_workers_see_a_new_table_and_keep_one_that_is_the_same(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    tables = LakeTables(lake)
    assert set(tables.newest().values()) == {None}
    for name, column in (("products", "product_id"), ("categories", "category_id"), ("users", "user_id")):
        load_references(lake, name, written(tmp_path, f"{column}\none\n"))
    first = tables.newest()
    assert first.keys() == REFERENCES.keys()
    assert all(known is not None and known.unknown({"one", "two"}) == {"two"} for known in first.values())
    load_references(lake, "users", written(tmp_path, "user_id\ntwo\n"))
    second = tables.newest()
    assert second["product_id"] is first["product_id"]
    assert isinstance(second["user_id"], KnownIds)
    assert second["user_id"].unknown({"one", "two"}) == {"one"}


def test_a_lake_as_it_was_is_not_written(tmp_path: Path) -> None:
    load_references(tmp_path / "lake", "users", written(tmp_path, "user_id\nu1\n"))
    with pytest.raises(LakePinnedError):
        load_references(pinned(tmp_path / "lake", Pin({"raw_events": 1})), "users", tmp_path / "file.csv")


@pytest.mark.parametrize("pseudonyms", [None, KEY])
def test_an_erased_user_is_no_longer_known(tmp_path: Path, pseudonyms: Pseudonyms | None) -> None:
    lake = tmp_path / "lake"
    path = written(tmp_path, "user_id\nwho-leaves\nwho-stays\n")
    load_references(lake, "users", path, pseudonyms=pseudonyms, now_ms=T0 - 5)
    load_references(lake, "users", path, pseudonyms=pseudonyms, now_ms=T0)
    row = ErasureRow("r", REQUESTED, KEY.subject("who-leaves"), KEY.key_id, "tid:4", CLICKS_TOPIC, 0, 3, T0 + 1)
    done = TableEraser(lake, REFERENCE_USERS, tombstones_of([row], KEY), None).erase()
    assert done is not None
    assert (done.rows, len(DeltaTable(lake / REFERENCE_USERS.name).to_pyarrow_table())) == (1, 1)
    needles = [text.encode() for text in KEY.stored_ids("who-leaves")]
    assert not any(needle in content for _, content in lake_contents(lake) for needle in needles)
    # the shop says again that there is such a user, later: that is news
    assert load_references(lake, "users", path, pseudonyms=pseudonyms, now_ms=T0 + 2).row_count == 2


def test_the_first_column_of_each_table_holds_what_gates_ask_for() -> None:
    assert {table.columns[0].name: name for name, table in REFERENCE_TABLES.items()} == REFERENCES


def test_loads_at_once_leave_one_file_whole(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    load_references(lake, "users", written(tmp_path, "user_id\nnobody\n"))
    loads = [[f"u{load}-{user}" for user in range(50)] for load in range(6)]
    files = [written(tmp_path, "\n".join(["user_id", *ids]), f"{load}.csv") for load, ids in enumerate(loads)]
    with ThreadPoolExecutor(len(files)) as pool:
        reports = list(pool.map(lambda path: load_references(lake, "users", path), files))
    newest = max(range(len(files)), key=lambda load: reports[load].version)
    assert sorted(row["user_id"] for row in noted(lake, REFERENCE_USERS)) == sorted(loads[newest])
    assert sorted(report.version for report in reports) == list(range(2, 8))
