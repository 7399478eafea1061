"""The state of one user in one topic, and its bytes. docs/reference/state.md describes them for other languages.

In memory all times are absolute milliseconds; on the wire they are relative to the newest event, and keys are packed.
`encode` expects a compacted state (features/retention.py): in order, and within all caps.
"""

import hashlib
import struct
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import sub
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec

from features.errors import StateError

LAYOUT: Final = 1
TRAILER_BYTES: Final = 18
KEY_BYTES: Final = 8
PANE_MS: Final = 10_000

K = TypeVar("K")
V = TypeVar("V")

_TRAILER: Final = struct.Struct(">HQQ")
_KEY: Final = struct.Struct(f"{KEY_BYTES}s")
_HINT: Final = "If a newer release wrote it, update this reader; otherwise rebuild the user by replay."


class Trailer(NamedTuple):
    """The end of a state's bytes, which the online store compares.

    Attributes:
        generation: raised only by a repair.
        built_from: version of the stored state that this one was built from, 0 for none.
        version: last applied offset + 1.
    """

    generation: int
    built_from: int
    version: int


class Interval(msgspec.Struct, gc=False):
    """A run of a user's events in one topic in which none comes more than the session gap after the one before it.

    Attributes:
        totals: one sum per measure of the topic.
    """

    first_ms: int
    last_ms: int
    totals: list[int]


class TopicState(msgspec.Struct, gc=False, kw_only=True):
    """What is remembered of one user in one topic. Mutable: only the fold that owns it changes it.

    Attributes:
        newest_ms: newest event time; every boundary, cap and pruning is a function of it.
        width: how many measures the topic has.
        partial: born while the log was being rebuilt, so earlier events may be missing.
        panes: pane start -> one sum per measure, oldest first; 15 min panes, then 1 min, then 10 s.
        intervals: session intervals, oldest first.
        products: product id -> newest event time, in order of (time, id).
        products_dropped_ms: newest event time among products that the cap dropped, 0 for none.
        categories: the same as products, by `id_key` of the category id.
        seen: `id_key` of an event id -> event time, within the lateness horizon, in order of (time, key).
        ids_forgotten_ms: newest event time among ids that the cap dropped, 0 for none.
        forget_next: heap over `seen` once a fold is at the cap; empty in a compacted state, and not encoded.
        forgotten_count: ids within the horizon that the fold dropped; 0 in a compacted state, and not encoded.
    """

    newest_ms: int
    width: int
    version: int
    built_from: int = 0
    generation: int = 0
    partial: bool = False
    panes: dict[int, list[int]] = {}  # msgspec copies an empty default
    intervals: list[Interval] = []
    products: dict[str, int] = {}
    products_dropped_ms: int = 0
    categories: dict[bytes, int] = {}
    categories_dropped_ms: int = 0
    seen: dict[bytes, int] = {}
    ids_forgotten_ms: int = 0
    forget_next: list[tuple[int, bytes]] = []
    forgotten_count: int = 0


_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Body(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The msgpack array before the trailer; times as steps, see `_steps`."""

    layout: int
    newest_ms: _Time
    partial: bool
    width: Annotated[int, msgspec.Meta(ge=1, le=64)]
    pane_steps: list[_Natural]
    pane_totals: list[int]
    interval_bounds: list[_Natural]
    interval_totals: list[int]
    products: list[str]
    product_steps: list[_Natural]
    products_dropped_ms: _Time
    categories: bytes
    category_steps: list[_Natural]
    categories_dropped_ms: _Time
    seen: bytes
    seen_steps: list[_Natural]
    ids_forgotten_ms: _Time


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Body)


def id_key(text: str) -> bytes:
    """Return the fixed-size key that stands for an id: BLAKE2b of its UTF-8 bytes, `KEY_BYTES` long.

    Among the 1,024 ids of a state, a new one equals another's key with a chance of 2**-70.
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


def encode(state: TopicState) -> bytes:
    """Return the bytes of a compacted state; equal states have equal bytes.

    Raises:
        StateError: a sum left 64 bits, which the limits of the codec rule out.
    """
    newest_ms = state.newest_ms
    newest_pane_ms = newest_ms - newest_ms % PANE_MS
    body = _Body(
        LAYOUT,
        newest_ms,
        state.partial,
        state.width,
        [step // PANE_MS for step in _steps(newest_pane_ms, list(state.panes))],
        list(chain.from_iterable(state.panes.values())),
        [
            n
            for interval in state.intervals
            for n in (newest_ms - interval.last_ms, interval.last_ms - interval.first_ms)
        ],
        [total for interval in state.intervals for total in interval.totals],
        list(state.products),
        _steps(newest_ms, list(state.products.values())),
        state.products_dropped_ms,
        b"".join(state.categories),
        _steps(newest_ms, list(state.categories.values())),
        state.categories_dropped_ms,
        b"".join(state.seen),
        _steps(newest_ms, list(state.seen.values())),
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
        raise StateError(f"These {len(state)} bytes are no state: {error}.", hint=_HINT) from error
    if body.layout != LAYOUT:
        raise StateError(f"The state has layout {body.layout}; this release reads {LAYOUT}.", hint=_HINT)
    if not body.interval_bounds or version == 0:
        raise StateError("The state holds no event.", hint=_HINT)
    newest_ms, width = body.newest_ms, body.width
    pane_times = _times("panes", newest_ms, [step * PANE_MS for step in body.pane_steps], grid_ms=PANE_MS)
    product_times = _times("products", newest_ms, body.product_steps)
    category_times = _times("categories", newest_ms, body.category_steps)
    return TopicState(
        newest_ms=newest_ms,
        width=width,
        version=version,
        built_from=built_from,
        generation=generation,
        partial=body.partial,
        panes=_paired("panes", pane_times, _rows("panes", body.pane_totals, width)),
        intervals=_intervals(body),
        products=_paired("products", body.products, product_times),
        products_dropped_ms=body.products_dropped_ms,
        categories=_paired("categories", _keys("categories", body.categories), category_times),
        categories_dropped_ms=body.categories_dropped_ms,
        seen=_paired("event ids", _keys("event ids", body.seen), _times("event ids", newest_ms, body.seen_steps)),
        ids_forgotten_ms=body.ids_forgotten_ms,
    )


def _steps(newest_ms: int, times_ms: list[int]) -> list[int]:
    """Return how long the first time is before the newest, then how long each is after the one before it."""
    return [newest_ms - times_ms[0], *map(sub, times_ms[1:], times_ms)] if times_ms else []


def _times(name: str, newest_ms: int, steps: list[int], *, grid_ms: int = 1) -> list[int]:
    """Undo `_steps`; overwrites its argument."""
    if not steps:
        return []
    steps[0] = newest_ms - newest_ms % grid_ms - steps[0]
    times = list(accumulate(steps))
    if times[0] < 0 or times[-1] > newest_ms:
        raise StateError(f"The {name} of the state lie before 1970 or after its newest event.", hint=_HINT)
    return times


def _keys(name: str, packed: bytes) -> list[bytes]:
    if len(packed) % KEY_BYTES:
        raise StateError(f"The {name} of the state are {len(packed)} bytes, no multiple of {KEY_BYTES}.", hint=_HINT)
    return [key for (key,) in _KEY.iter_unpack(packed)]


def _rows(name: str, totals: list[int], width: int) -> list[list[int]]:
    if len(totals) % width:
        raise StateError(f"The {name} of the state hold {len(totals)} sums, no multiple of {width}.", hint=_HINT)
    return [totals[i : i + width] for i in range(0, len(totals), width)]


def _paired(name: str, keys: Sequence[K], values: Sequence[V]) -> dict[K, V]:
    paired = dict(zip(keys, values, strict=False))
    if not len(paired) == len(keys) == len(values):
        raise StateError(f"The {name} of the state repeat, or lack a value.", hint=_HINT)
    return paired


def _intervals(body: _Body) -> list[Interval]:
    rows = _rows("sessions", body.interval_totals, body.width)
    bounds = body.interval_bounds
    if len(bounds) != 2 * len(rows):
        raise StateError(f"The sessions of the state have {len(bounds)} bounds for {len(rows)} rows.", hint=_HINT)
    newest_ms = body.newest_ms
    return [
        Interval(newest_ms - age_ms - length_ms, newest_ms - age_ms, totals)
        for age_ms, length_ms, totals in zip(bounds[::2], bounds[1::2], rows, strict=True)
    ]
