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

from training.errors import LabelsError, SetExistsError, TrainingError

MANIFEST: Final = "_manifest.json"  # readers of Parquet and of Delta pass over names that begin so

_ROW_GROUP: Final = 65_536
_CHUNK_BYTES: Final = 1 << 20


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
        except OSError as error:
            raise TrainingError(f"The set {out} cannot be written: {error.strerror or error}.") from error
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
    from deltalake import write_deltalake
    from deltalake.exceptions import DeltaError
    from pyarrow import parquet

    try:
        if kind is SetFormat.DELTA:
            write_deltalake(str(folder), _for_delta(table))
        else:
            parquet.write_table(table, folder / "part-0.parquet", compression="zstd", row_group_size=_ROW_GROUP)
    except (DeltaError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise LabelsError(
            f"A column of the labels cannot be kept in {kind}: {str(error).splitlines()[0]}.",
            hint="Leave it out, or cast it to a number, a text or a timestamp.",
        ) from error
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
    """Cast what Delta has no type for and another has the same values of: its timestamps are microseconds."""
    fields = []
    for field in table.schema:
        kind = field.type
        if pa.types.is_timestamp(kind):
            kind = pa.timestamp("us", kind.tz)
        elif pa.types.is_null(kind):
            kind = pa.string()
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        fields.append(pa.field(field.name, kind))
    return table.cast(pa.schema(fields), safe=False)
