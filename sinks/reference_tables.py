"""Reference tables: which products, categories and users exist, as a file of the shop says. A load replaces a table.

The gate `references` asks them (quality/known_ids.py); workers see a new table within half a minute.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from schemas.privacy import Pseudonyms
from sinks.errors import ReferenceFileError
from sinks.lake_root import Lake
from sinks.lake_table import LakeTable
from sinks.quality_tables import REFERENCE_TABLES

if TYPE_CHECKING:
    import pyarrow as pa

LISTED_MAX: Final = 20
ATTEMPTS: Final = 8
_DAY_MS: Final = 86_400_000
_FILE_HINT: Final = "A CSV file is in UTF-8, its fields are separated by commas, and its first line names them."


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """One row of a file.

    Attributes:
        line: where it ends in a CSV file; in Parquet the number of the row; both from 1.
        id: empty where the file has none.
        category_id: of a product; None where the file does not tell it.
    """

    line: int
    id: str
    category_id: str | None = None


@dataclass
class ReferenceLoad:
    """What became of a file.

    Attributes:
        name: `products`, `categories` or `users`.
        row_count: ids that the table holds now.
        duplicate_count: rows left out because their id came before.
        empty_count: rows left out because they have no id.
        empty_lines: the first of them.
        version: of the table in the lake, that the load wrote.
        is_pseudonymised: whether it holds pseudonyms of user ids, as all stores do.
    """

    name: str
    row_count: int = 0
    duplicate_count: int = 0
    empty_count: int = 0
    empty_lines: list[int] = field(default_factory=list)
    loaded_ms: int = 0
    version: int = 0
    is_pseudonymised: bool = False


@dataclass(frozen=True, slots=True)
class ReferenceStanding:
    """What is loaded of one kind.

    Attributes:
        name: `products`, `categories` or `users`.
        row_count: ids in the table; None where there is no table, and the gate says UNKNOWN.
        loaded_ms: when the file was loaded; None where there is no table or an empty one.
        version: of the table in the lake.
    """

    name: str
    row_count: int | None = None
    loaded_ms: int | None = None
    version: int | None = None


def load_references(
    lake: Lake,
    name: str,
    path: Path,
    *,
    pseudonyms: Pseudonyms | None = None,
    is_empty_allowed: bool = False,
    now_ms: int | None = None,
) -> ReferenceLoad:
    """Replace a reference table by what a CSV or Parquet file holds, in one commit. Repeating it changes nothing.

    Args:
        name: `products`, `categories` or `users`; the file has the column `product_id`, `category_id` or `user_id`.
            Of other columns only the `category_id` of products is kept.
        path: it is Parquet if its name ends so, else CSV in UTF-8 with a header.
        pseudonyms: what stands in for user ids in every store; None where they are kept as they are.
        is_empty_allowed: whether a file without any id may empty the table.
        now_ms: the time of the load; None for now.

    Raises:
        ReferenceFileError: the file cannot be read, has no such column, or no id. Nothing was changed.
        LakeUnavailableError: the table cannot be written.
        LakePinnedError: the lake is read as of an earlier moment.
    """
    table = REFERENCE_TABLES[name]
    column = table.columns[0].name
    report = ReferenceLoad(name, loaded_ms=time.time_ns() // 1_000_000 if now_ms is None else now_ms)
    kept = _kept(rows_of(path, column, has_category=name == "products"), report)
    if not kept and not is_empty_allowed:
        raise ReferenceFileError(
            f"{path} holds no {column}: the table would be empty, and every id unknown.",
            hint="If that is meant, load it with --allow-empty.",
        )
    if name == "users" and pseudonyms is not None:
        report.is_pseudonymised = True
        kept = {pseudonyms.of(user_id): category for user_id, category in kept.items()}
    report.row_count = len(kept)
    report.version = _replace(lake, table, _arrow(table, kept, report.loaded_ms))
    return report


def loaded_references(lake: Lake) -> list[ReferenceStanding]:
    """Return what is loaded, a row for each kind.

    Raises:
        LakeUnavailableError: a table cannot be read.
    """
    from pyarrow import compute as pc

    from sinks.delta import explained, opened

    found = []
    for name, table in REFERENCE_TABLES.items():
        address = lake / table.name
        handle = opened(address)
        if handle is None:
            found.append(ReferenceStanding(name))
            continue
        with explained(address):
            times = handle.to_pyarrow_dataset().to_table(columns=["loaded_ms"]).column("loaded_ms")
        found.append(ReferenceStanding(name, len(times), pc.max(times).as_py(), int(handle.version())))
    return found


def rows_of(path: Path, column: str, *, has_category: bool = False) -> Iterator[ReferenceRow]:
    """Yield the rows of a file.

    Args:
        column: that holds the ids.
        has_category: whether a column `category_id` tells the category of each.

    Raises:
        ReferenceFileError: the file cannot be read, or has no such column.
    """
    try:
        read = _parquet_rows if path.suffix == ".parquet" else _csv_rows
        yield from read(path, column, has_category=has_category)
    except OSError as error:
        raise ReferenceFileError(f"{path} cannot be read: {error.strerror or error}.") from error


def _csv_rows(path: Path, column: str, *, has_category: bool) -> Iterator[ReferenceRow]:
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            _require(path, column, reader.fieldnames or ())
            for row in reader:
                category = row.get("category_id") if has_category else None
                yield ReferenceRow(reader.line_num, row[column] or "", category or None)
        except (csv.Error, UnicodeDecodeError) as error:
            after = f"after line {reader.line_num:,}"
            raise ReferenceFileError(f"{path} cannot be read {after}: {error}.", hint=_FILE_HINT) from error


def _parquet_rows(path: Path, column: str, *, has_category: bool) -> Iterator[ReferenceRow]:
    import pyarrow as pa
    from pyarrow import parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _require(path, column, names)
            wanted = [column, *(["category_id"] if has_category and "category_id" in names else [])]
            line = 1
            for batch in file.iter_batches(columns=wanted):
                texts = [_texts(path, name, batch.column(name)) for name in wanted]
                for row in zip(*texts, strict=True):
                    yield ReferenceRow(line, row[0] or "", (row[1] or None) if len(row) > 1 else None)
                    line += 1
    except pa.ArrowInvalid as error:
        raise ReferenceFileError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error


def _texts(path: Path, name: str, values: "pa.Array") -> list[str | None]:
    """Return ids as events carry them."""
    import pyarrow as pa

    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise ReferenceFileError(
            f"The column {name} of {path} holds {kind}, not texts.", hint="Ids must be as events carry them."
        )
    return [None if value is None else str(value) for value in values.to_pylist()]


def _require(path: Path, column: str, names: Iterable[str]) -> None:
    found = list(names)
    if column not in found:
        there = f"it has {', '.join(found)}" if found else "it is empty"
        raise ReferenceFileError(f"{path} has no column {column}: {there}.", hint=_FILE_HINT)


def _kept(rows: Iterable[ReferenceRow], report: ReferenceLoad) -> dict[str, str | None]:
    """Return the category of each id that is kept, and count what is not."""
    kept: dict[str, str | None] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        if not row.id:
            counts["empty"] += 1
            if len(report.empty_lines) < LISTED_MAX:
                report.empty_lines.append(row.line)
        elif row.id in kept:
            counts["duplicate"] += 1
        else:
            kept[row.id] = row.category_id
    report.empty_count, report.duplicate_count = counts["empty"], counts["duplicate"]
    return kept


def _arrow(table: LakeTable, kept: dict[str, str | None], loaded_ms: int) -> "pa.Table":
    import pyarrow as pa

    from sinks.tables import arrow_schema

    schema = arrow_schema(table)
    columns: dict[str, Any] = {
        table.columns[0].name: pa.array(list(kept), pa.string()),
        "loaded_ms": pa.repeat(pa.scalar(loaded_ms, pa.int64()), len(kept)),
        "loaded_date": pa.repeat(pa.scalar(loaded_ms // _DAY_MS, pa.int32()).cast(pa.date32()), len(kept)),
    }
    if len(schema.names) > len(columns):
        columns["category_id"] = pa.array(list(kept.values()), pa.string())
    return pa.table({name: columns[name].cast(schema.field(name).type) for name in schema.names}, schema)


def _replace(lake: Lake, table: LakeTable, rows: "pa.Table") -> int:
    """Commit rows in the place of all others; return the version. Tried again where upkeep was at the same files."""
    from deltalake import write_deltalake
    from deltalake.exceptions import CommitFailedError
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    from sinks.delta import explained, open_or_create, writer_properties
    from sinks.lake_root import writable

    address = writable(lake) / table.name

    def commit() -> int:
        handle = open_or_create(address, table)
        write_deltalake(handle, rows, mode="overwrite", writer_properties=writer_properties(table))
        return int(handle.version())

    retrying = Retrying(
        retry=retry_if_exception_type(CommitFailedError),
        wait=wait_random_exponential(multiplier=0.05, max=2.0),
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    with explained(address):
        return retrying(commit)
