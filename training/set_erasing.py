"""Erases users from the training sets that were made of a lake: a set is written anew without them, as a whole."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from config.settings import Settings
from replay.erase import EraseSets, SetErasure
from sinks.derived_tables import TRAINING_SETS
from sinks.erasures import Tombstones
from sinks.lake_root import Lake, lake_of

Tell = Callable[[str], None]

_FORMER: Final = "former"


def set_eraser(settings: Settings, tell: Tell) -> EraseSets:
    """Return what erases from the sets of a lake; see `erase_from_sets`."""
    return lambda tombstones: erase_from_sets(lake_of(settings), tombstones, tell)


def erase_from_sets(lake: Lake, tombstones: Tombstones, tell: Tell) -> Sequence[SetErasure]:
    """Erase from every set that the lake knows the rows that are from before an erasure of their user; blocking.

    A set keeps its id. Its manifest gets the count and the hashes of the new files, and tells under `erasures` how many
    rows went when. A run that is killed leaves a set as it was or without them, and may be repeated.

    Raises:
        LakeUnavailableError: the table of sets cannot be read.
        TrainingError: a set cannot be read or written.
    """
    found = []
    for path in _paths(lake):
        erased = _erase(path, tombstones)
        if erased.rows:
            tell(f"training set {path}: {erased.rows:,} rows erased")
        found.append(erased)
    return found


def _paths(lake: Lake) -> list[Path]:
    from sinks.delta import explained, opened

    address = lake / TRAINING_SETS.name
    handle = opened(address)
    if handle is None:
        return []
    with explained(address):
        paths = handle.to_pyarrow_table(columns=["path"]).column("path").to_pylist()
    return sorted({Path(path) for path in paths})


def _erase(out: Path, tombstones: Tombstones) -> SetErasure:
    import pyarrow as pa

    from training.set_files import MANIFEST, SetFormat, new_folder, write_manifest, write_rows

    _settle(out)
    if not (out / MANIFEST).is_file():
        return SetErasure(str(out), 0, "gone")
    manifest, table = _read(out)
    kept = _kept(table, tombstones)
    rows = int(table.num_rows - sum(kept))
    if not rows:
        return SetErasure(str(out), 0, "clean")
    table = table.filter(pa.array(kept, pa.bool_()))
    with new_folder(out, overwrite=True) as (folder, publish):
        manifest["files"] = write_rows(folder, table, SetFormat(manifest["format"]))
        manifest["rows"] = table.num_rows
        noted = {"erased_ms": time.time_ns() // 1_000_000, "rows": rows}
        manifest["erasures"] = [*manifest.get("erasures", []), noted]
        write_manifest(folder, manifest)
        publish()
    return SetErasure(str(out), rows, "written anew")


def _read(out: Path) -> tuple[dict[str, Any], Any]:
    import pyarrow as pa
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError
    from pyarrow import parquet

    from training.errors import TrainingError
    from training.set_files import MANIFEST, SetFormat

    try:
        manifest = json.loads((out / MANIFEST).read_text())
        if SetFormat(manifest["format"]) is SetFormat.DELTA:
            return manifest, DeltaTable(out).to_pyarrow_table()
        names = [file["path"] for file in manifest["files"]]
        return manifest, pa.concat_tables([parquet.read_table(out / name, partitioning=None) for name in names])
    except (OSError, ValueError, KeyError, DeltaError, pa.ArrowException) as error:
        raise TrainingError(
            f"The training set {out} cannot be read: {str(error).splitlines()[0]}.",
            hint="Delete the folder, or mend it; then run the same `shopstream lake erase` again.",
        ) from error


def _kept(table: Any, tombstones: Tombstones) -> list[bool]:
    from training.columns import LABEL_MS

    users = table.column("user_id").combine_chunks().dictionary_encode()
    until_ms = [tombstones.until_ms(user) for user in users.dictionary.to_pylist()]
    labels = zip(users.indices.to_pylist(), table.column(LABEL_MS).to_pylist(), strict=True)
    return [label_ms > until_ms[user] for user, label_ms in labels]


def _settle(out: Path) -> None:
    """Finish what a process left that was killed between moving a set aside and deleting it: two renames apart."""
    if not out.parent.is_dir():
        return
    for former in sorted(out.parent.glob(f".{out.name}.*.{_FORMER}")):
        if out.exists():
            shutil.rmtree(former)
        else:
            former.rename(out)
