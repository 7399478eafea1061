"""The fuzz program with a decoder that crashes at one message, to show that it would be found."""

import ctypes
import sys

from schemas.codec import Codec, Decoded
from schemas.dead_letter import DeadLetter
from schemas.event import Record
from tests.unit.schemas.codec_fuzz import main

DEADLY_NUMBER = 2_345

if __name__ == "__main__":
    decode = Codec.decode

    def deadly(self: Codec, record: Record, partition_count: int) -> Decoded | DeadLetter:
        if record.offset == DEADLY_NUMBER:
            ctypes.string_at(0)
        return decode(self, record, partition_count)

    Codec.decode = deadly  # type: ignore[method-assign]
    sys.exit(main())
