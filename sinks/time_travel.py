"""Opens a table as it was: at a version, or at the newest version of an instant.

A version can be read while two things are there: the part of the table's log that tells its files, and the files
themselves. `lake maintain` and workers clear the one, `lake maintain` and `lake erase` the other.
"""

import bisect
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from sinks.errors import LakeVersionError
from sinks.lake_root import RootedTable
from sinks.table_files import LOG_FOLDER, data_files, file_system, files_below, library_arguments

if TYPE_CHECKING:
    from deltalake import DeltaTable

_COMMIT: Final = re.compile(rf"{LOG_FOLDER}/(\d{{20}})\.json")
_CHECKPOINT: Final = re.compile(rf"{LOG_FOLDER}/(\d{{20}})\.checkpoint\..*parquet")


def open_pinned(address: RootedTable) -> "DeltaTable | None":
    """Open a table at the version or instant of its address; None for an instant before it was made.

    Raises:
        LakeVersionError: that version is not there, or cannot be read any more.
        DeltaError, OSError: what is there cannot be read.
    """
    if str(address) in address.snapshots:
        return cast("DeltaTable | None", address.snapshots[str(address)])
    found = address.snapshots[str(address)] = _opened(address)
    return found


def _opened(address: RootedTable) -> "DeltaTable | None":
    from deltalake.exceptions import TableNotFoundError

    past = _History(address)
    if isinstance(address.pin, datetime):
        version = past.version_at(address.pin)
        if version is None:
            return None
    elif past.newest < 0:
        raise LakeVersionError(
            f"The lake has no table {address.name}, so it has no version {address.pin}.",
            hint="Leave out --lake-version, or name a table that is there.",
        )
    else:
        version = int(address.pin or 0)
    if version < past.oldest or version > past.newest:
        raise past.refusal()
    try:
        handle = past.opened(version)
    except TableNotFoundError as error:
        raise past.refusal() from error
    if not past.is_readable(handle):
        raise past.refusal()
    return handle


def version_instant(address: RootedTable) -> datetime:
    """Return when the version of an address was written.

    Raises:
        LakeVersionError: that version is not there, or cannot be read any more.
    """
    if open_pinned(address) is None or not isinstance(address.pin, int):
        raise ValueError(f"{address.name} is not pinned to a version")
    return _History(address).written(address.pin)


class _History:
    """What is left of a table's log, and of its files."""

    def __init__(self, address: RootedTable) -> None:
        self._address = address
        found = files_below(address, LOG_FOLDER)
        self._commits = sorted(int(match[1]) for file in found if (match := _COMMIT.fullmatch(file.path)))
        checkpoints = {int(match[1]): file.age_s for file in found if (match := _CHECKPOINT.fullmatch(file.path))}
        self._checkpoints = checkpoints
        self.newest = max([*self._commits, *checkpoints], default=-1)
        self.oldest = 0 if 0 in self._commits else min(checkpoints, default=0)
        self._held: frozenset[str] | None = None

    def opened(self, version: int) -> "DeltaTable":
        from deltalake import DeltaTable

        return DeltaTable(**library_arguments(self._address), version=version)

    def is_readable(self, handle: "DeltaTable") -> bool:
        """Tell whether every file of a version is there."""
        import pyarrow as pa

        if self._held is None:
            self._held = frozenset(file.path for file in data_files(self._address))
        return self._held.issuperset(pa.table(handle.get_add_actions(flatten=True)).column("path").to_pylist())

    def version_at(self, instant: datetime) -> int | None:
        """Return the newest version that was written at or before an instant.

        Raises:
            LakeVersionError: the log does not reach back that far.
        """
        known = sorted({version for version in (*self._commits, *self._checkpoints) if version >= self.oldest})
        after = bisect.bisect_right(known, instant, key=self.written)
        if after:
            return known[after - 1]
        if self.oldest == 0:
            return None  # the table was made later
        raise self.refusal()

    def written(self, version: int) -> datetime:
        """Return when a version was written, by the clock of its writer."""
        if version in self._commits:
            with file_system(self._address).open_input_stream(f"{LOG_FOLDER}/{version:020}.json") as stream:
                for line in stream.read().splitlines():
                    action = json.loads(line)
                    if "commitInfo" in action:
                        return datetime.fromtimestamp(action["commitInfo"]["timestamp"] / 1000, UTC)
        return datetime.fromtimestamp(datetime.now(UTC).timestamp() - self._checkpoints.get(version, 0.0), UTC)

    def refusal(self) -> LakeVersionError:
        """Return the error that names the oldest version that can be read."""
        pin = self._address.pin
        when = f"as of {pin.isoformat()}" if isinstance(pin, datetime) else f"at version {pin}"
        oldest = _first(range(self.oldest, self.newest + 1), lambda version: self.is_readable(self.opened(version)))
        why = "it was never written" if isinstance(pin, int) and pin > self.newest else "that was cleared away since"
        return LakeVersionError(
            f"{self._address.name} cannot be read {when}: {why}. The oldest version that can be read is {oldest} of "
            f"{self.written(oldest).isoformat(timespec='seconds')}, the newest is {self.newest}.",
            hint="docs/how-to/time-travel.md tells how far back a lake can be read, and what sets that.",
        )


def _first(versions: Sequence[int], is_readable: Callable[[int], bool]) -> int:
    """Return the first readable version; all after it are, and the newest is."""
    return versions[bisect.bisect_left(versions, True, 0, len(versions) - 1, key=is_readable)]  # noqa: FBT003
