"""The state of one user in one topic, and its bytes. docs/reference/state.md describes them for other languages.

In memory it is what its bytes are: flat arrays, oldest first, their times counted from the state's *origin*, which
moves once in five days. So nothing is rebuilt to read a state, nor to write it.
"""

import hashlib
import struct
import sys
from array import array
from collections.abc import Sized
from contextlib import suppress
from typing import Annotated, Final, NamedTuple

import msgspec

from features.errors import StateError
from features.newest import Newest

LAYOUT: Final = 1  # that is written
# Releases run side by side during a rolling restart, and a worker must read what another wrote. So a new layout comes
# into this tuple first, and becomes LAYOUT one release later.
READABLE_LAYOUTS: Final = (1,)
TRAILER_BYTES: Final = 18
KEY_BYTES: Final = 8
CATEGORY_KEY_BYTES: Final = 6
PANE_MS: Final = 10_000

# All that is kept lies within a day and a half: a pane's start fits 16 bits, in panes, and any other time 32 bits.
_DAY_MS: Final = 86_400_000
_ORIGIN_EVERY_MS: Final = 5 * _DAY_MS
_ORIGIN_BACK_MS: Final = 2 * _DAY_MS
ORIGIN_REACH_MS: Final = _ORIGIN_EVERY_MS + _ORIGIN_BACK_MS
_PANES: Final = "H"
_TIMES: Final = "I"

_IS_BIG_ENDIAN: Final = sys.byteorder == "big"  # the bytes of a state are little-endian

_TRAILER: Final = struct.Struct(">HQQ")
_HINT: Final = "If a newer release wrote it, update this reader; otherwise rebuild the user by replay."


class Trailer(NamedTuple):
    """The end of a state's bytes, which the online store compares.

    Attributes:
        generation: raised only by a repair.
        built_from: version of the stored state that this one was built from, 0 for none.
        version: last applied offset + 1; of a state that a new log began with, where that log begins.
    """

    generation: int
    built_from: int
    version: int


class Interval(NamedTuple):
    """A run of a user's events in one topic in which none comes more than the session gap after the one before it."""

    first_ms: int
    last_ms: int
    totals: list[int]


class TopicState(msgspec.Struct, gc=False, kw_only=True):
    """What is remembered of one user in one topic. Mutable: only the fold that owns it changes it.

    All collections are ordered, oldest first; times without `_ms` in their name count from `origin_ms`.

    Attributes:
        newest_ms: newest event time; every boundary, cap and pruning is a function of it.
        origin_ms: `origin_of` the newest event time of the last compaction.
        width: how many measures the topic has.
        partial: born while the log was being rebuilt, so earlier events may be missing.
        pane_starts: in units of `PANE_MS`; 15 min panes, then 1 min, then 10 s.
        pane_sums: `width` per pane.
        session_bounds: first and last event time of each session interval.
        session_sums: `width` per interval.
        products: newest time of each product id.
        products_dropped_ms: newest event time among products that the cap dropped, 0 for none.
        categories: the same as products, by `category_key`.
        seen: `id_key`s of the event ids within the lateness horizon, in order of (time, key), one after the other.
        seen_times: one per key.
        ids_forgotten_ms: newest event time among ids that the cap dropped, 0 for none.
        forgotten_count: how many the fold dropped; not encoded.
    """

    newest_ms: int
    origin_ms: int
    width: int
    version: int = 0
    built_from: int = 0
    generation: int = 0
    partial: bool = False
    pane_starts: "array[int]" = msgspec.field(default_factory=lambda: array(_PANES))
    pane_sums: list[int] = []  # msgspec copies an empty default
    session_bounds: list[int] = []
    session_sums: list[int] = []
    products: Newest[str] = msgspec.field(default_factory=lambda: Newest([], array(_TIMES)))
    products_dropped_ms: int = 0
    categories: Newest[bytes] = msgspec.field(default_factory=lambda: Newest([], array(_TIMES)))
    categories_dropped_ms: int = 0
    seen: bytearray = bytearray()
    seen_times: "array[int]" = msgspec.field(default_factory=lambda: array(_TIMES))
    ids_forgotten_ms: int = 0
    forgotten_count: int = 0

    @property
    def panes(self) -> dict[int, list[int]]:
        """Pane start in milliseconds -> one sum per measure, oldest first; to look at, not to change."""
        starts = [self.origin_ms + PANE_MS * start for start in self.pane_starts]
        return dict(zip(starts, _rows(self.pane_sums, self.width), strict=True))

    @property
    def intervals(self) -> list[Interval]:
        """Session intervals, oldest first; to look at, not to change."""
        bounds = [self.origin_ms + bound for bound in self.session_bounds]
        return [*map(Interval, bounds[::2], bounds[1::2], _rows(self.session_sums, self.width))]


_Time = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The msgpack array before the trailer."""

    layout: int
    newest_ms: _Time
    partial: bool
    width: Annotated[int, msgspec.Meta(ge=1, le=64)]
    pane_starts: bytes
    pane_sums: list[int]
    session_bounds: list[int]
    session_sums: list[int]
    products: list[str]
    product_times: bytes
    products_dropped_ms: _Time
    categories: bytes
    category_times: bytes
    categories_dropped_ms: _Time
    seen: bytearray
    seen_times: bytes
    ids_forgotten_ms: _Time


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Body)


def origin_of(newest_ms: int) -> int:
    """Return the instant that the times of a state count from: 2 to 7 days before its newest event."""
    return (newest_ms - _ORIGIN_BACK_MS) // _ORIGIN_EVERY_MS * _ORIGIN_EVERY_MS


def move_origin(state: TopicState) -> None:
    """Count the times of a compacted state from the origin that belongs to its newest event.

    Raises:
        StateError: they lie too far apart to have been compacted.
    """
    later_ms = origin_of(state.newest_ms) - state.origin_ms
    state.origin_ms += later_ms
    try:
        state.pane_starts = array(_PANES, [start - later_ms // PANE_MS for start in state.pane_starts])
        for times in (state.products.times, state.categories.times, state.seen_times):
            times[:] = array(_TIMES, [time - later_ms for time in times])
    except OverflowError as error:
        raise StateError("The state holds times that lie more than five days apart.", hint=_HINT) from error
    state.session_bounds = [bound - later_ms for bound in state.session_bounds]


def category_key(text: str) -> bytes:
    """Return the first `CATEGORY_KEY_BYTES` of the key of a category id.

    Among 256 categories any two have the same key with a chance of 2**-33.
    """
    return id_key(text)[:CATEGORY_KEY_BYTES]


def id_key(text: str) -> bytes:
    """Return the fixed-size key that stands for an id: BLAKE2b of its UTF-8 bytes, `KEY_BYTES` long.

    An id that was never seen equals one of 1,024 keys with a chance of 2**-54.
    """
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def read_trailer(state: bytes) -> Trailer:
    """Read generation, built_from and version without decoding the rest.

    Raises:
        StateError: the bytes are shorter than a trailer.
    """
    if len(state) < TRAILER_BYTES:
        raise StateError(f"{len(state)} bytes are too few for a state.", hint=_HINT)
    return Trailer._make(_TRAILER.unpack_from(state, len(state) - TRAILER_BYTES))


def with_trailer(state: bytes, trailer: Trailer) -> bytes:
    """Return the same state under another trailer.

    Raises:
        StateError: the bytes are shorter than a trailer.
    """
    read_trailer(state)
    return state[:-TRAILER_BYTES] + _TRAILER.pack(*trailer)


def encode(state: TopicState) -> bytes:
    """Return the bytes of a compacted state; equal states have equal bytes.

    Raises:
        StateError: a sum left 64 bits, which the limits of the codec rule out.
    """
    body = _Body(
        LAYOUT,
        state.newest_ms,
        state.partial,
        state.width,
        _packed(state.pane_starts),
        state.pane_sums,
        state.session_bounds,
        state.session_sums,
        state.products.ids,
        _packed(state.products.times),
        state.products_dropped_ms,
        b"".join(state.categories.ids),
        _packed(state.categories.times),
        state.categories_dropped_ms,
        state.seen,
        _packed(state.seen_times),
        state.ids_forgotten_ms,
    )
    try:
        return _ENCODER.encode(body) + _TRAILER.pack(state.generation, state.built_from, state.version)
    except (OverflowError, struct.error) as error:
        raise StateError(
            f"A number of the state does not fit its field: {error}.", hint="Check the codec's limits."
        ) from error


def decode(state: bytes) -> TopicState:
    """Return the state that these bytes hold; the caller owns it.

    Raises:
        StateError: they are no state of the layout that this release reads; it says what is wrong.
    """
    generation, built_from, version = read_trailer(state)
    try:
        body = _DECODER.decode(memoryview(state)[:-TRAILER_BYTES])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(state, error) from error
    if body.layout not in READABLE_LAYOUTS:
        raise _of_another_layout(body.layout)
    if not body.session_bounds:  # of version 0 is a state that its log began with (replay/log_move.py)
        raise StateError("The state holds no event.", hint=_HINT)
    origin_ms, width = origin_of(body.newest_ms), body.width
    newest = body.newest_ms - origin_ms
    pane_starts = _unpacked("panes", _PANES, body.pane_starts, newest // PANE_MS)
    product_times = _unpacked("products", _TIMES, body.product_times, newest)
    category_times = _unpacked("categories", _TIMES, body.category_times, newest)
    seen_times = _unpacked("event ids", _TIMES, body.seen_times, newest)
    products, categories = body.products, _split(body.categories, CATEGORY_KEY_BYTES)
    if len(body.pane_sums) != width * len(pane_starts):
        raise _mismatch("panes", body.pane_sums, width)
    if 2 * len(body.session_sums) != width * len(body.session_bounds):
        raise _mismatch("sessions", body.session_sums, width)
    if not len(product_times) == len(products) == len(set(products)):
        raise _mismatch("products", products)
    if not len(category_times) == len(body.categories) / CATEGORY_KEY_BYTES == len(set(categories)):
        raise _mismatch("categories", body.categories, CATEGORY_KEY_BYTES)
    if len(seen_times) != len(body.seen) / KEY_BYTES:
        raise _mismatch("event ids", body.seen, KEY_BYTES)
    return TopicState(
        newest_ms=body.newest_ms,
        origin_ms=origin_ms,
        width=width,
        version=version,
        built_from=built_from,
        generation=generation,
        partial=body.partial,
        pane_starts=pane_starts,
        pane_sums=body.pane_sums,
        session_bounds=body.session_bounds,
        session_sums=body.session_sums,
        products=Newest(products, product_times),
        products_dropped_ms=body.products_dropped_ms,
        categories=Newest(categories, category_times),
        categories_dropped_ms=body.categories_dropped_ms,
        seen=body.seen,
        seen_times=seen_times,
        ids_forgotten_ms=body.ids_forgotten_ms,
    )


def _unreadable(state: bytes, error: Exception) -> StateError:
    """Tell another layout, which may be an array of any shape, from what is no state at all."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        match msgspec.msgpack.decode(memoryview(state)[:-TRAILER_BYTES]):
            case [int(layout), *_] if layout not in READABLE_LAYOUTS:
                return _of_another_layout(layout)
    return StateError(f"These {len(state)} bytes are no state: {error}.", hint=_HINT)


def _of_another_layout(layout: int) -> StateError:
    readable = " and ".join(map(str, READABLE_LAYOUTS))
    return StateError(f"The state has layout {layout}; this release reads {readable}.", hint=_HINT)


def _packed(numbers: "array[int]") -> bytes:
    if _IS_BIG_ENDIAN:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


def _unpacked(name: str, kind: str, packed: bytes, most: int) -> "array[int]":
    try:
        numbers = array(kind, packed)
    except ValueError as error:
        raise StateError(
            f"The {name} of the state have {len(packed)} bytes of times, a part of one.", hint=_HINT
        ) from error
    if _IS_BIG_ENDIAN:
        numbers.byteswap()
    if numbers and (numbers[-1] > most or numbers.tolist() != sorted(numbers)):
        raise StateError(f"The {name} of the state are out of order, or after its newest event.", hint=_HINT)
    return numbers


def _split(packed: bytes, size: int) -> list[bytes]:
    """Cut keys of this size from one another; a part of a key at the end is left out."""
    return list(struct.unpack_from(f"{size}s" * (len(packed) // size), packed))


def _mismatch(name: str, found: Sized, size: int = 1) -> StateError:
    return StateError(
        f"The {name} of the state do not fit their times, or repeat: {len(found)} entries of which {size} go to one.",
        hint=_HINT,
    )


def _rows(sums: list[int], width: int) -> list[list[int]]:
    return [sums[i : i + width] for i in range(0, len(sums), width)]
