"""A topic's log, its lake and its online store in memory, across moves from one log epoch to another."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feature_repo.fence import Fence, PartitionStatus
from features.apply import fold
from features.state import TRAILER_BYTES
from replay.lake_folds import FoldOrder, LakeFold
from replay.log_move import LogMove, MoveResult
from replay.log_move_plan import MovePlan, MovePlanner, MovePorts
from replay.repair import RepairPorts
from replay.sources import LakeSource
from schemas.event import CLICKS_TOPIC, Event, Record
from schemas.partitioner import partition_of
from schemas.privacy import Pseudonyms
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones
from sinks.lake import LakeSink
from sinks.lake_reads import PartitionLog
from sinks.rows import PartitionFlush, RawRow
from tests.fakes.online import InMemoryFences, InMemoryStates
from tests.fakes.streams import ManualClock

T0 = 1_700_000_000_000
USERS = [f"user-{number}" for number in range(24)]
OLD, NEW, OTHER = "id:2", "id:3", "other:3"
KEY = Pseudonyms(b"0123456789abcdef")

Entry = tuple[int, Event]


@dataclass
class Log:
    """The log of one topic, as producers write it."""

    epoch: str
    first_offsets: Mapping[int, int] = field(default_factory=dict)
    entries: dict[int, list[Entry]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return int(self.epoch.rpartition(":")[2])

    def publish(self, users: Iterable[str], prefix: str) -> list[Event]:
        made = []
        for number, user in enumerate(users):
            event = Event(event_id=f"{prefix}-{number}", kind="page_view", user_id=user, event_time_ms=T0 + number)
            self.append(event)
            made.append(event)
        return made

    def append(self, event: Event) -> None:
        partition = partition_of(event.user_id.encode(), self.count)
        held = self.entries.setdefault(partition, [])
        held.append((self.first_offsets.get(partition, 0) + len(held), event))

    def ends(self) -> dict[int, int]:
        return {
            number: self.first_offsets.get(number, 0) + len(self.entries.get(number, []))
            for number in range(self.count)
        }

    def of(self, user: str) -> list[Entry]:
        return [
            entry for entry in self.entries.get(partition_of(user.encode(), self.count), []) if entry[1].user_id == user
        ]


@dataclass
class World:
    """A lake, an online store, a broker, and what a worker would do to them."""

    lake: Path
    online: InMemoryStates = field(default_factory=InMemoryStates)
    fences: InMemoryFences = field(default_factory=InMemoryFences)
    clock: ManualClock = field(default_factory=ManualClock)
    tombstones: Tombstones = field(default_factory=lambda: Tombstones(pseudonyms=KEY))
    is_live: bool = False
    produced: dict[int, int] = field(default_factory=dict)

    @property
    def repair(self) -> RepairPorts:
        async def tombstones() -> Tombstones:
            return self.tombstones

        return RepairPorts(self.lake, self.online, self.fences, self.clock, tombstones)

    @property
    def ports(self) -> MovePorts:
        return MovePorts(self.repair, self.fences, self.online, lambda: self.is_live, lambda _: self.produced, 300_000)

    def flush(self, log: Log) -> None:
        flushes = []
        for partition, entries in log.entries.items():
            rows = [
                RawRow(Record(CLICKS_TOPIC, partition, offset, T0, b"k", b"v"), each, 1, T0) for offset, each in entries
            ]
            topic_id = log.epoch.rpartition(":")[0]
            flushes.append(
                PartitionFlush(
                    CLICKS_TOPIC, topic_id, log.epoch, partition, rows[0].record.offset, entries[-1][0], raw=rows
                )
            )
        LakeSink(self.lake).write(flushes)

    async def live(self, log: Log, *, fences: bool = True) -> None:
        """Apply a log as a worker does, and flush it."""
        for partition, entries in log.entries.items():
            for offset, each in entries:
                stored = (await self.online.load(CLICKS_TOPIC, [each.user_id])).get(each.user_id)
                folded = fold(stored.state if stored else None, [(offset, each)])
                if stored is None or folded.state != stored.state:
                    await self.online.push(CLICKS_TOPIC, [(each.user_id, folded.state)], self.clock.now_ms())
            if fences:
                fence = Fence(log.epoch, entries[-1][0] + 1, PartitionStatus.LIVE, 0)
                await self.fences.advance(CLICKS_TOPIC, partition, fence)
        self.flush(log)

    async def plan(self, epoch: str, *from_epochs: str) -> list[MovePlan]:
        topic_id, _, count = epoch.rpartition(":")
        info = TopicInfo(CLICKS_TOPIC, topic_id, int(count), "LogAppendTime")
        return await MovePlanner(self.ports).plan({CLICKS_TOPIC: info}, from_epochs)

    async def move(self, epoch: str, *from_epochs: str) -> MoveResult:
        (planned,) = await self.plan(epoch, *from_epochs)
        assert planned.problem == ""
        return await LogMove(self.ports).move(planned)

    def state(self, user: str) -> bytes:
        return self.online.rows[CLICKS_TOPIC, user].state

    def rows(self, table: str) -> list[dict[str, object]]:
        """Return the rows of a table of the lake."""
        from deltalake import DeltaTable

        found: list[dict[str, object]] = DeltaTable(self.lake / table).to_pyarrow_dataset().to_table().to_pylist()
        return found

    def folded(self, epoch: str, order: FoldOrder = FoldOrder.LOG) -> dict[str, bytes]:
        """Fold all partitions of a log from the lake."""
        states: dict[str, bytes] = {}
        for partition in range(int(epoch.rpartition(":")[2])):
            fold_ = LakeFold(LakeSource(self.lake), PartitionLog(epoch, CLICKS_TOPIC, partition), order)
            fold_.read_on()
            assert not states.keys() & fold_.states.keys()
            states |= fold_.states
        return states


def content(events: Sequence[Event]) -> bytes:
    """Return the bytes of a state before its trailer."""
    return fold(None, list(enumerate(events))).state[:-TRAILER_BYTES]


def events_of(user: str, *logs: Log) -> list[Event]:
    return [event for log in logs for _, event in log.of(user)]
