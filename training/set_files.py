"""A set on disk: a folder that appears as a whole, with its manifest in it."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError

from training.errors import LabelsError, SetExistsError, TrainingError

MANIFEST: Final = "_manifest.json"  # readers of Parquet and of Delta pass over names that begin so

_ROW_GROUP: Final = 65_536
_CHUNK_BYTES: Final = 1 << 20
_CAST_HINT: Final = "Leave it out, or cast it to a number, a text or a timestamp."


class SetFormat(StrEnum):
    """How the rows of a set are kept."""

    PARQUET = "parquet"
    DELTA = "delta"


def check_free(out: Path, *, overwrite: bool) -> None:
    """Check that a set may be written to a folder.

    Raises:
        SetExistsError: something lies there that is not to be overwritten.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise SetExistsError(f"{out} exists already.", hint="Name another folder, or add --overwrite.")
    if out.is_symlink() or not (out / MANIFEST).is_file():
        raise SetExistsError(
            f"{out} exists and is no training set: it has no {MANIFEST}.",
            hint="Only a set is overwritten. Name another folder, or move it away.",
        )


@contextmanager
def new_folder(out: Path, *, overwrite: bool) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Make a hidden folder beside `out`; the function that is yielded with it puts it there as a whole.

    Whatever happens before leaves `out` as it was, and nothing else behind, unless the process is killed: then a
    folder `.<name>.<id>.partial` stays. A set that is overwritten is moved aside first, and deleted last.

    Raises:
        SetExistsError: something appeared there meanwhile.
        TrainingError: the folder cannot be written.
    """
    own = uuid.uuid4().hex[:12]
    partial, former = (out.with_name(f".{out.name}.{own}.{what}") for what in ("partial", "former"))

    def publish() -> None:
        check_free(out, overwrite=overwrite)
        if out.exists():
            out.rename(former)
        partial.rename(out)

    try:
        try:
            partial.mkdir(parents=True)
            yield partial, publish
        except (OSError, DeltaError) as error:
            raise TrainingError(f"The set {out} cannot be written: {str(error).splitlines()[0]}.") from error
    finally:
        if former.exists() and not out.exists():
            former.rename(out)
        shutil.rmtree(partial, ignore_errors=True)
        if former.exists():
            shutil.rmtree(former)


def write_rows(folder: Path, table: pa.Table, kind: SetFormat) -> list[dict[str, Any]]:
    """Write the rows of a set, and return path, size and SHA-256 of each file that holds some.

    Raises:
        LabelsError: a column that labels carry cannot be kept in that format.
        OSError: the disk does not take it.
    """
    from pyarrow import parquet

    try:
        if kind is SetFormat.DELTA:
            write_deltalake(str(folder), _for_delta(table))
        else:
            parquet.write_table(table, folder / "part-0.parquet", compression="zstd", row_group_size=_ROW_GROUP)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise LabelsError(f"A column of the labels cannot be kept in {kind}: {why}.", hint=_CAST_HINT) from error
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in {".parquet", ".json"})
    return [
        {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths
    ]


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Write the manifest into a set's folder, and return its text."""
    text = json.dumps(manifest, indent=2) + "\n"
    (folder / MANIFEST).write_text(text)
    return text


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            hashed.update(chunk)
    return hashed.hexdigest()


def _for_delta(table: pa.Table) -> pa.Table:
    """Cast what Delta has no type for and another has the same values of.

    Raises:
        LabelsError: a column has no such type.
    """
    kinds = [_delta_type(field.type) for field in table.schema]
    for field, kind in zip(table.schema, kinds, strict=True):
        if kind is None:
            raise LabelsError(
                f"The column {field.name} holds {field.type}, which Delta does not keep.", hint=_CAST_HINT
            )
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))), safe=False)


def _delta_type(kind: Any) -> Any:
    types = pa.types
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_null(kind):
        return pa.string()
    if types.is_dictionary(kind):
        return _delta_type(kind.value_type)
    if types.is_unsigned_integer(kind):
        return pa.int64()
    if types.is_list(kind) or types.is_large_list(kind):
        item = _delta_type(kind.value_type)
        return item and pa.list_(item)
    kept = [types.is_signed_integer, types.is_float32, types.is_float64, types.is_decimal128, types.is_boolean]
    kept += [types.is_string, types.is_large_string, types.is_binary, types.is_date32]
    return kind if any(is_kept(kind) for is_kept in kept) else None
