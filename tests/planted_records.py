"""Records that end whoever decodes them: planted into the codec, because no real one is known any more.

The codec refuses what is known to crash, hang or bloat fastavro. So that the quarantine has something to find, these
plants make `Codec.decode` do the same for events of certain ids. `main` is the probing command with the plants in it.
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Final

from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter
from schemas.event import Record
from streams import probing

COMMAND: Final = (sys.executable, "-P", "-m", "tests.planted_records")
CRASH_ID: Final = "planted-crash"
HANG_ID: Final = "planted-hang"
BLOAT_ID: Final = "planted-bloat"
ERROR_ID: Final = "planted-error"


def _crash() -> None:
    ctypes.string_at(0)  # a read of address 0: no Python exception, the process is gone


def _hang() -> None:
    while True:
        pass


def _bloat() -> None:
    held = []
    while True:
        held.append(bytearray(10_000_000))


def _raise() -> None:
    raise RuntimeError("nobody expects this")


PLANTS: Final[dict[bytes, Callable[[], None]]] = {
    CRASH_ID.encode(): _crash,
    HANG_ID.encode(): _hang,
    BLOAT_ID.encode(): _bloat,
    ERROR_ID.encode(): _raise,
}


def plant() -> None:
    """Make the codec of this process die of the planted records."""
    decode = Codec.decode

    def deadly(self: Codec, record: Record, partition_count: int) -> Decoded | DeadLetter:
        for mark, effect in PLANTS.items():
            if mark in (record.value or b""):
                effect()
        return decode(self, record, partition_count)

    Codec.decode = deadly  # type: ignore[method-assign]


def main() -> None:
    """Probe with the plants."""
    plant()
    probing.main()


if __name__ == "__main__":
    main()
