"""Folding a lane chunk by chunk gives the states of live, byte for byte, wherever it was cut or stopped."""

import random
from collections.abc import Sequence

import pytest
from msgspec import structs

from features.apply import fold
from features.state import Trailer, read_trailer, with_trailer
from replay.fold_target import FoldTarget
from replay.targets import Chunk, Part
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from sinks.lake_reads import PartitionLog
from sinks.log_pieces import Piece
from tests.logs import HOUR, MINUTE, Log, event

CARTS, CLICKS = PartitionLog("a:1", CARTS_TOPIC, 0), PartitionLog("b:1", CLICKS_TOPIC, 0)
LANE = (CARTS, CLICKS)
KINDS = {CARTS: ("add", "remove", "purchase"), CLICKS: ("page_view", "click", "search")}


def log_of(topic: PartitionLog, seed: int) -> Log:
    """Forty hours of some users, with late and doubled events and gaps in the offsets."""
    chance = random.Random(f"{topic.topic}{seed}")
    found: Log = []
    now_ms, offset = 0, 0
    for _ in range(1_500):
        now_ms += round(chance.expovariate(1 / (1.6 * MINUTE)))
        offset += chance.choice((1, 1, 2))
        at_ms = now_ms - chance.choice((0, 0, 0, 5 * MINUTE, 15 * MINUTE))
        made = event(at_ms, chance.choice(KINDS[topic]), product_id=f"p{chance.randrange(40)}")
        found.append((offset, structs.replace(made, user_id=f"u{chance.randrange(12)}")))
        if chance.random() < 0.05:
            offset += 1
            found.append((offset, chance.choice(found[-50:])[1]))
    assert now_ms > 30 * HOUR
    return found


def part(log: PartitionLog, entries: Log, first_offset: int) -> Part:
    offsets = [offset for offset, _ in entries]
    piece = Piece(offsets[-1] + 1, offsets, offsets, [made for _, made in entries], [], 0)
    return Part(log, piece, sum(offset < first_offset for offset in offsets))


def folded(logs: dict[PartitionLog, Log], cuts: Sequence[int], *, first_offset: int = 0, saves: bool) -> FoldTarget:
    target = FoldTarget(LANE)
    for number, size in enumerate(cuts):
        begin = sum(cuts[:number])
        parts = [part(log, logs[log][begin : begin + size], first_offset) for log in LANE if logs[log][begin:]]
        target.write(Chunk(number, parts))
        if saves:
            saved, target = target.save(), FoldTarget(LANE)
            target.restore(saved)
    return target


def live(entries: Log) -> dict[str, bytes]:
    """Fold each user's events one by one, as a worker that gets them so does."""
    states: dict[str, bytes] = {}
    for offset, made in entries:
        states[made.user_id] = fold(states.get(made.user_id), [(offset, made)]).state
    return {user: with_trailer(state, Trailer(0, 0, read_trailer(state).version)) for user, state in states.items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("saves", [False, True])
def test_states_are_those_of_live(seed: int, saves: bool) -> None:
    logs = {log: log_of(log, seed) for log in LANE}
    whole = folded(logs, [10_000], saves=False)
    cut = folded(logs, [1, 7, 400, 30, 2_000], saves=saves)
    for log in LANE:
        assert cut.states(log) == whole.states(log) == live(logs[log])
    assert cut.counts() == whole.counts()
    counts = dict(cut.counts())
    assert counts.pop("users") == 12
    assert min(counts.values()) > 0
    assert sum(counts.values()) == sum(map(len, logs.values()))


def test_what_lies_before_the_range_changes_states_and_is_not_counted() -> None:
    logs = {log: log_of(log, 9) for log in LANE}
    all_of_it = folded(logs, [300, 10_000], saves=False)
    later = folded(logs, [300, 10_000], first_offset=1_000, saves=False)
    assert [later.states(log) for log in LANE] == [all_of_it.states(log) for log in LANE]
    counted = sum(offset >= 1_000 for entries in logs.values() for offset, _ in entries)
    assert sum(later.counts()[name] for name in ("applied", "duplicate", "late")) == counted
