"""Where a lake is: a local folder, or a place in an object store; as it is now, or as it was.

Whoever reads the lake takes a `Lake`, joins a table's name with `/`, and opens that with `sinks.delta.opened`. A plain
folder is a `pathlib.Path`. A `LakeRoot` is anything else: an `s3://` address with its options, or either kind pinned
to versions or to an instant. Nothing is ever written through a pinned one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from config.settings import Settings
from sinks.errors import LakeNotLocalError, LakePinnedError

__all__ = [
    "Lake",
    "LakeRoot",
    "Pin",
    "RootedTable",
    "TableAddress",
    "is_remote",
    "is_there",
    "lake_of",
    "local_folder",
    "pinned",
    "writable",
]

# What was erased since stays erased, whatever moment is looked at.
NEVER_PINNED: Final = "erasures"


@dataclass(frozen=True, slots=True)
class Pin:
    """As of when tables are read.

    Attributes:
        versions: of tables, by name; these are read at exactly that version.
        instant: the others are read at their newest version then; None leaves them as they are now.
    """

    versions: Mapping[str, int] = field(default_factory=dict, hash=False)
    instant: datetime | None = None

    def __bool__(self) -> bool:
        return bool(self.versions) or self.instant is not None

    def of(self, table: str) -> "int | datetime | None":
        """Return the version or the instant at which a table is read; None for the newest version."""
        return None if table == NEVER_PINNED else self.versions.get(table, self.instant)

    def __str__(self) -> str:
        parts = [f"{name} at version {version}" for name, version in self.versions.items()]
        return ", ".join([*parts, *([f"as of {self.instant.isoformat()}"] if self.instant else [])])


@dataclass(frozen=True, slots=True)
class RootedTable:
    """Where a table of a `LakeRoot` is.

    Attributes:
        uri: an absolute folder, or an `s3://` address.
        storage_options: as delta-rs takes them; they may hold secrets.
        pin: version or instant to read it at; None for the newest version.
        snapshots: where the table is kept once it was opened at the pin, by address.
    """

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    pin: int | datetime | None = None
    snapshots: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The table's name."""
        return self.uri.rpartition("/")[2]

    def __str__(self) -> str:
        return self.uri


@dataclass(frozen=True, slots=True)
class LakeRoot:
    """A lake that is not simply a folder as it is now.

    Attributes:
        uri: an absolute folder, or an `s3://` address, without a slash at its end.
        storage_options: as delta-rs takes them; they may hold secrets.
        pin: as of when it is read.
        snapshots: of the tables that were opened at the pin, by address: they stay what they are for as long as this
            root is used, though the table's log may forget that version meanwhile.
    """

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    pin: Pin = field(default_factory=Pin, hash=False)
    snapshots: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __truediv__(self, table: str) -> RootedTable:
        return RootedTable(f"{self.uri}/{table}", self.storage_options, self.pin.of(table), self.snapshots)

    def __reduce__(self) -> tuple[type["LakeRoot"], tuple[Any, ...]]:
        return LakeRoot, (self.uri, self.storage_options, self.pin)  # another process opens its own snapshots

    def __str__(self) -> str:
        return self.uri

    def pinned(self, pin: Pin) -> "LakeRoot":
        """Return the same lake as of `pin`."""
        return replace(self, pin=pin, snapshots={})


Lake: TypeAlias = Path | LakeRoot
TableAddress: TypeAlias = Path | RootedTable


def lake_of(settings: Settings, pin: Pin | None = None) -> Lake:
    """Return the lake that the settings name.

    Args:
        pin: as of when to read it.
    """
    address = settings.lake.s3_address
    if address:
        return LakeRoot(address, settings.lake.storage_options, pin or Pin())
    return pinned(settings.lake_path, pin) if pin else settings.lake_path


def pinned(lake: Lake, pin: Pin) -> LakeRoot:
    """Return a lake as of `pin`."""
    return (lake if isinstance(lake, LakeRoot) else LakeRoot(str(lake.absolute()))).pinned(pin)


def is_there(lake: Lake) -> bool:
    """Tell whether a lake may hold something: a folder that does not exist holds nothing."""
    return is_remote(lake) or Path(str(lake)).is_dir()


def is_remote(place: "Lake | TableAddress") -> bool:
    """Tell whether a lake or table is in an object store."""
    return not isinstance(place, Path) and "://" in place.uri


def writable(lake: Lake) -> Lake:
    """Return the lake, which is about to be changed.

    Raises:
        LakePinnedError: it is read as of an earlier moment.
    """
    if isinstance(lake, LakeRoot) and lake.pin:
        raise LakePinnedError(str(lake), str(lake.pin))
    return lake


def local_folder(lake: Lake, what: str) -> Path:
    """Return the folder of a lake, for what works on local files only.

    Args:
        what: that needs it, as the subject of a sentence.

    Raises:
        LakeNotLocalError: the lake is in an object store.
        LakePinnedError: it is read as of an earlier moment.
    """
    if is_remote(lake):
        raise LakeNotLocalError(str(lake), what)
    return Path(str(writable(lake)))
