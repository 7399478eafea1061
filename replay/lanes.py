"""One lane of a replay: its partitions read side by side, merged by append time, handed to its target in chunks."""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

from replay.plan import Lane
from replay.ranges import PartitionRange
from replay.runs import Checkpoint, LaneCounts, LaneFile
from replay.sources import EventSource, Piece
from replay.targets import Chunk, Part, Target
from sinks.erasures import ErasedLog, Tombstones, log_of
from sinks.lake_reads import PartitionLog

SAVE_EVERY_S: Final = 10.0
SAVE_SHARE: Final = 0.1  # of the time, at most; states of many users take long to write
CHUNKS_PER_S: Final = 4


class LaneProgress(NamedTuple):
    """How far a lane has come.

    Attributes:
        number: of the lane.
        target_counts: the target's numbers.
    """

    number: int
    counts: LaneCounts
    target_counts: dict[str, int]
    is_done: bool


@dataclass(frozen=True, slots=True)
class LanePorts:
    """What a lane runs with.

    Attributes:
        open_target: opens the target of the lane.
        tombstones: reads what was erased and must not come back.
        report: is told after every chunk.
        stopped: tells whether to stop; asked after every chunk.
        wait: waits for some seconds, or until `stopped`.
        rate: tells how many records a second may be read; None for no limit.
    """

    source: EventSource
    open_target: Callable[[Sequence[PartitionLog]], Target]
    tombstones: Callable[[], Tombstones]
    report: Callable[[LaneProgress], None]
    stopped: Callable[[], bool]
    wait: Callable[[float], None]
    rate: Callable[[], float | None] = lambda: None
    clock: Callable[[], float] = time.monotonic


class LaneRun:
    """Runs one lane from its last checkpoint, until it is done or stopped.

    Args:
        users: whom, as they are stored; None for everybody.
        originals: whether the target needs keys and values.
        save_every_s: the least time between two checkpoints.
    """

    def __init__(
        self,
        number: int,
        lane: Lane,
        file: LaneFile,
        ports: LanePorts,
        *,
        users: frozenset[str] | None = None,
        originals: bool = False,
        save_every_s: float = SAVE_EVERY_S,
    ) -> None:
        self._number = number
        self._lane = lane
        self._file = file
        self._ports = ports
        self._users = users
        self._originals = originals
        self._save_every_s = save_every_s
        self._counts = LaneCounts()
        self._tombstones = Tombstones()
        self._chunk_number = 0

    def run(self) -> LaneProgress:
        """Go on until the lane is done or `stopped`; what was done is saved in both cases.

        Raises:
            ReplayRunningError: another process is at work on it.
            ShopstreamError: the source or the target failed; go on from the last checkpoint.
        """
        with self._file.held():
            saved = self._file.read()
            if saved is not None and saved.is_done:
                return LaneProgress(self._number, saved.counts, saved.target_counts, is_done=True)
            target = self._ports.open_target([part.log for part in self._lane])
            try:
                if saved is not None:
                    self._counts = saved.counts
                    target.restore(saved.target)
                return self._run(target, saved)
            finally:
                target.close()

    def _run(self, target: Target, saved: Checkpoint | None) -> LaneProgress:
        ports = self._ports
        readers = [
            _Reader(
                part,
                saved.positions[place] if saved else part.warm_up_offset,
                saved.floors_ms[place] if saved else 0,
            )
            for place, part in enumerate(self._lane)
        ]
        for reader in readers:
            part = reader.part
            pieces = ports.source.read(
                part.log, reader.position, part.end_offset, users=self._users, originals=self._originals
            )
            reader.begin(pieces if reader.position < part.end_offset else iter(()), self._piece_size)
        self._tombstones = ports.tombstones()
        pace = _Pace(ports)
        save_at_s = ports.clock() + self._save_every_s
        while not ports.stopped() and (parts := _next_parts(readers)):
            before = self._counts
            chunk = Chunk(self._chunk_number, [self._without_erased(part) for part in parts])
            self._chunk_number += 1
            self._count(chunk, parts)
            target.write(chunk)
            if ports.clock() >= save_at_s:
                began_s = ports.clock()
                self._save(target, readers)
                self._tombstones = ports.tombstones()
                now_s = ports.clock()
                save_at_s = now_s + max(self._save_every_s, (now_s - began_s) / SAVE_SHARE)
            ports.report(self._progress(target))
            pace.keep(self._counts.records - before.records)
        is_done = all(reader.is_done for reader in readers)
        self._save(target, readers, is_done=is_done)
        progress = self._progress(target, is_done=is_done)
        ports.report(progress)
        return progress

    def _piece_size(self) -> int | None:
        rate = self._ports.rate()
        return None if rate is None else max(1, round(rate / CHUNKS_PER_S))

    def _count(self, chunk: Chunk, parts: Sequence["_Released"]) -> None:
        warm_up = sum(part.warm_up_count for part in chunk.parts)
        events = sum(len(part.piece.events) for part in chunk.parts)
        self._counts += LaneCounts(
            records=sum(part.record_count for part in parts),
            events=events - warm_up,
            warm_up_events=warm_up,
            dead_letters=sum(part.piece.letter_count for part in chunk.parts),
            erased=sum(len(part.piece.events) for part in parts) - events,
        )

    def _without_erased(self, released: "_Released") -> Part:
        piece, log = released.piece, released.part.log
        erased_log = log_of(log.topic, log.log_epoch, log.partition)
        if piece.offsets and piece.offsets[0] < self._tombstones.reach(erased_log):
            piece = _kept(piece, self._tombstones, erased_log)
        warm_up_count = bisect_left(piece.offsets, released.part.first_offset)
        return Part(log, piece, warm_up_count, released.floor_ms)

    def _save(self, target: Target, readers: Sequence["_Reader"], *, is_done: bool = False) -> None:
        saved = target.save()
        self._file.write(
            Checkpoint(
                positions=tuple(reader.position for reader in readers),
                floors_ms=tuple(reader.floor_ms for reader in readers),
                counts=self._counts,
                target_counts=dict(target.counts()),
                target=b"" if is_done else saved,
                is_done=is_done,
            )
        )

    def _progress(self, target: Target, *, is_done: bool = False) -> LaneProgress:
        return LaneProgress(self._number, self._counts, dict(target.counts()), is_done)


class _Released(NamedTuple):
    """A piece of one partition that may go to the target now."""

    part: PartitionRange
    piece: Piece
    floor_ms: int
    record_count: int


class _Reader:
    """One partition of the lane: what was read of it and is not released yet.

    Attributes:
        position: everything below it was released.
        floor_ms: the greatest append time of what was released.
    """

    def __init__(self, part: PartitionRange, position: int, floor_ms: int) -> None:
        self.part = part
        self.position = position
        self.floor_ms = floor_ms
        self._pieces: Iterator[Piece] = iter(())
        self._piece: Piece | None = None
        self._orders: list[int] = []

    def begin(self, pieces: Iterator[Piece], size: Callable[[], int | None]) -> None:
        """Read from here on, in pieces of at most this size."""
        self._pieces = _cut(pieces, size)

    @property
    def is_done(self) -> bool:
        """Tell whether all of the range was released."""
        return self.position >= self.part.end_offset

    def fill(self) -> bool:
        """Have a piece at hand; False at the end of the range."""
        if self._piece is None:
            self._piece = next(self._pieces, None)
            if self._piece is not None:
                self._orders = list(accumulate(self._piece.append_times_ms, max, initial=self.floor_ms))[1:]
        return self._piece is not None

    def horizon_ms(self) -> int:
        """Return the append time that what comes after the piece at hand does not go below."""
        return self._orders[-1] if self._orders else self.floor_ms

    def release(self, until_ms: int | None, *, inclusive: bool) -> _Released | None:
        """Hand over what was appended before an instant, or at it; None for all of the piece at hand."""
        piece, orders = self._piece, self._orders
        if piece is None:
            return None
        cut = len(orders)
        if until_ms is not None:
            cut = (bisect_right if inclusive else bisect_left)(orders, until_ms)
        floor_ms, before = self.floor_ms, self.position
        if cut == len(orders):
            self._piece, self._orders = None, []
        elif cut == 0:
            return None
        else:
            piece, self._piece = _head(piece, cut), _tail(piece, cut)
            self._orders = orders[cut:]
        self.position = piece.end_offset
        self.floor_ms = orders[cut - 1] if cut else floor_ms
        return _Released(self.part, piece, floor_ms, self.position - before)


def _next_parts(readers: Sequence[_Reader]) -> list[_Released]:
    """Release all that comes, in the merged order, before anything that is still to be read; empty at the end."""
    open_readers = [reader for reader in readers if reader.fill()]
    if not open_readers:
        return []
    # readers are in the order of topic and partition, which decides between equal times
    last = min(range(len(open_readers)), key=lambda place: (open_readers[place].horizon_ms(), place))
    until_ms = open_readers[last].horizon_ms()
    found = [reader.release(until_ms, inclusive=place <= last) for place, reader in enumerate(open_readers)]
    return [released for released in found if released is not None]


def _cut(pieces: Iterator[Piece], size: Callable[[], int | None]) -> Iterator[Piece]:
    for piece in pieces:
        rest = piece
        most = size()
        while most is not None and len(rest.events) > most:
            yield _head(rest, most)
            rest = _tail(rest, most)
            most = size()
        yield rest


def _head(piece: Piece, cut: int) -> Piece:
    """Return the first events of a piece."""
    offsets = piece.offsets[:cut]
    return Piece(offsets[-1] + 1, offsets, piece.append_times_ms[:cut], piece.events[:cut], piece.originals[:cut], 0)


def _tail(piece: Piece, cut: int) -> Piece:
    """Return the other events, with what the piece says of its end."""
    return Piece(
        piece.end_offset,
        piece.offsets[cut:],
        piece.append_times_ms[cut:],
        piece.events[cut:],
        piece.originals[cut:],
        piece.letter_count,
    )


def _kept(piece: Piece, tombstones: Tombstones, log: ErasedLog) -> Piece:
    """Leave out the events of users who were erased after them."""
    kept = [
        place
        for place, (offset, event) in enumerate(zip(piece.offsets, piece.events, strict=True))
        if offset >= tombstones.end_of(event.user_id, log)
    ]
    return piece.only(kept)


class _Pace:
    """Keeps the rate: waits as long as what was read should have taken, from the beginning or the last change."""

    def __init__(self, ports: LanePorts) -> None:
        self._ports = ports
        self._rate: float | None = None
        self._since_s = 0.0
        self._records = 0

    def keep(self, records: int) -> None:
        """Wait after so many records."""
        rate = self._ports.rate()
        if rate != self._rate:
            self._rate, self._since_s, self._records = rate, self._ports.clock(), 0
        if rate is None:
            return
        self._records += records
        ahead_s = self._records / rate - (self._ports.clock() - self._since_s)
        if ahead_s > 0:
            self._ports.wait(ahead_s)
