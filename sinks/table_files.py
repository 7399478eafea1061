"""The files of a lake or of one table, whether they are in a folder or in an object store."""

import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from sinks.lake_root import Lake, LakeRoot, RootedTable, TableAddress, is_remote

LOG_FOLDER: Final = "_delta_log"


class FoundFile(NamedTuple):
    """One file.

    Attributes:
        path: below the place that was listed, with `/`.
        age_s: since it was last written, by this machine's clock.
    """

    path: str
    size: int
    age_s: float


def library_arguments(address: TableAddress) -> dict[str, Any]:
    """Return how delta-rs is told where a table is."""
    if isinstance(address, RootedTable):
        return {"table_uri": address.uri, "storage_options": dict(address.storage_options) or None}
    return {"table_uri": address}


def file_system(place: Lake | TableAddress) -> Any:
    """Return the pyarrow file system whose root is a lake or a table."""
    from pyarrow import fs

    if is_remote(place) and isinstance(place, LakeRoot | RootedTable):
        from deltalake.fs import DeltaStorageHandler

        return fs.PyFileSystem(DeltaStorageHandler(place.uri, dict(place.storage_options)))
    return fs.SubTreeFileSystem(str(Path(str(place)).absolute()), fs.LocalFileSystem())


def files_below(place: Lake | TableAddress, folder: str = "") -> list[FoundFile]:
    """List the files below a folder of a lake or a table, in no order; none when it is not there."""
    from pyarrow import fs

    selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
    now = datetime.now(UTC)
    found = []
    with suppress(FileNotFoundError):  # a folder that is deleted meanwhile
        for info in file_system(place).get_file_info(selector):
            if info.type == fs.FileType.File:
                written = info.mtime if isinstance(info.mtime, datetime) else datetime.fromtimestamp(time.time(), UTC)
                found.append(FoundFile(info.path, info.size or 0, (now - written).total_seconds()))
    return found


def data_files(table: TableAddress) -> list[FoundFile]:
    """List the data files of a table, those of older versions and those that no version knows included."""
    return [file for file in files_below(table) if not file.path.startswith(LOG_FOLDER)]
