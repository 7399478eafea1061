"""Parity on events in memory: what agrees, what differs and why, and what a way cannot tell of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from config.privacy import PrivacySettings
from feature_repo.fence import Fence, PartitionStatus
from features.apply import fold
from features.state import Trailer, read_trailer, with_trailer
from replay.parity import LiveUser, ParityPlan, ParityPorts, ParityReport, compare
from replay.parity_content import InstantsOf, instants_at, instants_from_newest, packed, values_at
from replay.parity_report import Gap
from replay.sources import LakeReach
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.privacy import Pseudonyms
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones, log_of
from streams.ports import TopicPartition
from tests.fakes.event_source import MemorySource

T0 = 1_700_000_000_000
HOUR = 3_600_000
CLICKS = TopicPartition(CLICKS_TOPIC, 0)
CARTS = TopicPartition(CARTS_TOPIC, 0)
TOPICS = {topic: TopicInfo(topic, f"id-{topic}", 1, "LogAppendTime") for topic in (CLICKS_TOPIC, CARTS_TOPIC)}
USERS = ("anna", "ben", "cora")

Log = dict[int, Event]


def clicks() -> Log:
    """Return 30 clicks of three users in turn, each of them 20 s after the one before, some of them duplicates."""
    return {
        at: Event(
            event_id=f"e{at % 25}", kind="click", user_id=USERS[at % 3], event_time_ms=T0 + 20_000 * at,
            product_id=f"p{at}",
        )
        for at in range(30)
    }  # fmt: skip


def carts() -> Log:
    return {
        at: Event(
            event_id=f"c{at}", kind="add", user_id="anna", event_time_ms=T0 + 60_000 * at, product_id="p1", quantity=1,
            unit_price_minor=100 + at, currency="EUR",
        )
        for at in range(4)
    }  # fmt: skip


def folded(log: Mapping[int, Event], user: str) -> bytes:
    """Fold one event at a time, as a quiet topic is."""
    state: bytes | None = None
    for at in sorted(log):
        if log[at].user_id == user:
            state = fold(state, [(at, log[at])]).state
    assert state is not None
    return state


class Live:
    """States in memory, with what readers are given."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, bytes]] = {user: {CLICKS_TOPIC: folded(clicks(), user)} for user in USERS}
        self.states["anna"][CARTS_TOPIC] = folded(carts(), "anna")
        self.held: dict[str, dict[int, Fence]] = {
            topic: {0: Fence(TOPICS[topic].log_epoch, end, PartitionStatus.LIVE, 0)}
            for topic, end in ((CLICKS_TOPIC, 30), (CARTS_TOPIC, 4))
        }
        self.problems: dict[str, str] = {}
        self.read_users: list[Sequence[str]] = []
        self.before_read: Callable[[int], None] = lambda _number: None
        self.change: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: values

    def users(self) -> list[str]:
        return list(self.states)

    def fences(self, topic: str) -> Mapping[int, Fence]:
        return self.held[topic]

    def read(self, user_ids: Sequence[str], instants_of: InstantsOf) -> Mapping[str, LiveUser]:
        self.before_read(len(self.read_users))
        self.read_users.append(user_ids)
        return {user: self._user(user, instants_of) for user in user_ids}

    def _user(self, user: str, instants_of: InstantsOf) -> LiveUser:
        if user in self.problems:
            return LiveUser({}, problem=self.problems[user])
        states = self.states.get(user, {})
        instants = instants_of(user, T0 + 20_000 * 29) if states else ()
        values = packed([self.change(dict(values)) for values in values_at(states, instants)])
        return LiveUser(dict(states), instants, values)


class World:
    """All ways, which agree until a test changes one of them."""

    def __init__(self) -> None:
        self.live = Live()
        ends = {CLICKS: 30, CARTS: 4}
        self.kafka = MemorySource("kafka", {CLICKS: clicks(), CARTS: carts()}, dict(ends))
        self.lake = MemorySource("lake", {CLICKS: clicks(), CARTS: carts()}, dict(ends))
        self.letters: dict[str, set[int]] = {}
        self.tombstones = Tombstones()
        self.has_pseudonyms = False
        self.now_s = 0.0
        self.sleeps: list[Callable[[], None]] = []

    def compare(self, users: int | None = None, instants_of: InstantsOf = instants_from_newest) -> ParityReport:
        ports = ParityPorts(
            live=self.live,
            sources=(self.kafka, self.lake),
            tombstones=lambda: self.tombstones,
            letters_only=lambda log: self.letters.get(log.topic, set()),
            tolerance_ms=300_000,
            has_pseudonyms=self.has_pseudonyms,
            monotonic_s=lambda: self.now_s,
            sleep=self._sleep,
        )
        return compare(ports, ParityPlan(TOPICS, users, instants_of, wait_s=5.0), lambda _step: None)

    def in_kafka(self, tp: TopicPartition, log: Log, **more: Any) -> None:
        self.kafka = MemorySource("kafka", {**self.kafka.entries, tp: log}, self.kafka.ends, **more)

    def in_lake(self, tp: TopicPartition, log: Log, **more: Any) -> None:
        self.lake = MemorySource("lake", {**self.lake.entries, tp: log}, self.lake.ends, **more)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.sleeps:
            self.sleeps.pop(0)()


def without(log: Log, *offsets: int) -> Log:
    return {at: event for at, event in log.items() if at not in offsets}


def gaps(report: ParityReport) -> set[tuple[str, str, Gap, int]]:
    return {(count.way, count.topic, count.gap, count.user_count) for count in report.gaps}


def test_ways_that_agree_have_one_hash() -> None:
    report = World().compare()
    assert (report.user_count, report.state_count, report.difference_count) == (3, 4, 0)
    assert report.value_count == 3 * 5 * len(report.ways["live"].hashes.keys() - TOPICS.keys())
    assert len({way.total for way in report.ways.values()}) == 1
    assert {way.state_count for way in report.ways.values()} == {4}
    assert (report.gaps, report.failures) == ([], [])


def test_an_event_that_live_lacks_is_named() -> None:
    world = World()
    lacking = folded(without(clicks(), 12), "anna")
    world.live.states["anna"][CLICKS_TOPIC] = lacking
    report = world.compare()
    (user,) = report.differing
    assert user.user_id == "anna"
    assert user.agreeing == [("live",), ("kafka", "lake")]
    assert user.causes == [f"the live state is as if click e12 at {CLICKS_TOPIC}-0:12 had not been applied"]
    assert [(event.offset, event.outcome) for event in user.events if event.is_named] == [(12, "applied")]
    assert {event.offset for event in user.events} == {3, 6, 9, 12, 15, 18, 21}
    assert {found.feature for found in user.differences} >= {None, "click_count_24h", "session_event_count"}
    counted = next(found for found in user.differences if found.feature == "click_count_24h")
    assert counted.values == {"live": 9, "kafka": 10, "lake": 10}


def test_an_event_that_live_counted_twice_is_named() -> None:
    world = World()
    twice = clicks()
    twice[13] = msgspec.structs.replace(twice[12], event_id="e12 again")
    world.live.states["anna"][CLICKS_TOPIC] = folded(twice, "anna")
    (user,) = world.compare().differing
    assert user.causes == [f"the live state is as if click e12 at {CLICKS_TOPIC}-0:12 had been applied twice"]


def test_an_update_that_live_lost_is_found_though_the_older_state_was_right() -> None:
    world = World()
    world.live.states["ben"][CLICKS_TOPIC] = folded(without(clicks(), 28), "ben")
    (user,) = world.compare().differing
    assert user.user_id == "ben"
    assert any("live is at version 26" in cause for cause in user.causes)


def test_what_live_has_not_applied_yet_is_no_difference() -> None:
    world = World()
    world.live.states["ben"][CLICKS_TOPIC] = folded(without(clicks(), 28), "ben")
    world.live.states["cora"][CLICKS_TOPIC] = folded(clicks(), "cora")  # in the store already, and above the fence
    world.live.held[CLICKS_TOPIC][0] = replace(world.live.held[CLICKS_TOPIC][0], next_offset=28)
    world.live.states["anna"][CLICKS_TOPIC] = folded(without(clicks(), 29), "anna")
    report = world.compare()
    assert (report.difference_count, report.state_count, report.failures) == (0, 4, [])


def test_a_state_that_is_gone_is_found() -> None:
    world = World()
    del world.live.states["cora"]
    (user,) = world.compare().differing
    assert (user.user_id, user.differences[0].values["live"]) == ("cora", "none")


def test_a_state_that_no_log_explains_is_found() -> None:
    world = World()
    world.live.states["nobody"] = {CLICKS_TOPIC: folded(clicks(), "ben")}
    (user,) = world.compare().differing
    assert user.user_id == "nobody"
    assert user.agreeing == [("live",), ("kafka", "lake")]


def test_bytes_that_are_no_state_are_a_difference() -> None:
    world = World()
    world.live.problems["ben"] = "unreadable: user_clicks_v1"
    (user,) = world.compare().differing
    assert (user.user_id, user.differences[0].values["live"]) == ("ben", "bytes that are no state")


def test_an_event_that_the_lake_lacks_is_named() -> None:
    world = World()
    world.in_lake(CLICKS, without(clicks(), 9))
    (user,) = world.compare().differing
    assert user.agreeing == [("live", "kafka"), ("lake",)]
    assert user.causes == [f"click e9 at {CLICKS_TOPIC}-0:9 is in kafka, and not in lake"]
    (named,) = (event for event in user.events if event.is_named)
    assert (named.offset, named.ways) == (9, ("kafka",))


def test_a_row_of_the_lake_that_was_changed_is_named() -> None:
    world = World()
    world.in_lake(CARTS, carts() | {2: msgspec.structs.replace(carts()[2], unit_price_minor=1)})
    (user,) = world.compare().differing
    assert user.causes == [f"add c2 at {CARTS_TOPIC}-0:2 differs between kafka and lake: unit_price_minor is 102 and 1"]


def test_values_that_do_not_follow_from_the_state_are_found() -> None:
    world = World()
    world.live.change = lambda values: values | {"click_count_5m": values["click_count_5m"] + 1}
    report = world.compare()
    assert {found.feature for user in report.differing for found in user.differences} == {"click_count_5m"}
    assert report.difference_count == 3
    assert report.differing[0].causes == [
        "the states agree, and the values that readers are given do not follow from them"
    ]


def test_a_user_repaired_in_the_order_of_event_times_is_folded_so() -> None:
    late = Event(event_id="late", kind="click", user_id="ben", event_time_ms=T0 - HOUR)
    log = clicks() | {30: late}
    in_time = {0: late} | {1 + at: event for at, event in clicks().items()}
    repaired = with_trailer(folded(in_time, "ben"), Trailer(1, 0, 31))
    world = World()
    for source in (world.kafka, world.lake):
        source.ends = {CLICKS: 31, CARTS: 4}
    world.live.held[CLICKS_TOPIC][0] = replace(world.live.held[CLICKS_TOPIC][0], next_offset=31)
    world.live.states["ben"][CLICKS_TOPIC] = repaired
    world.in_kafka(CLICKS, log, corrected={"ben": 31})
    world.in_lake(CLICKS, log, corrected={"ben": 31})
    assert world.compare().difference_count == 0
    world.in_kafka(CLICKS, log)
    world.in_lake(CLICKS, log)
    (user,) = world.compare().differing
    assert user.causes[0].startswith("the live state is right in event-time order")


def test_who_differs_is_looked_at_again() -> None:
    world = World()
    right = world.live.states["anna"][CLICKS_TOPIC]
    world.live.states["anna"][CLICKS_TOPIC] = folded(without(clicks(), 12), "anna")

    def repair(number: int) -> None:
        if number == 1:
            world.live.states["anna"][CLICKS_TOPIC] = with_trailer(right, Trailer(1, 0, read_trailer(right).version))

    world.live.before_read = repair
    report = world.compare()
    assert (report.difference_count, report.user_count) == (0, 3)
    assert world.live.read_users == [sorted(USERS), ["anna"]]


def test_it_waits_for_a_lake_that_is_behind() -> None:
    world = World()
    world.lake.ends = {CLICKS: 20, CARTS: 4}
    world.lake.entries = {CLICKS: {at: event for at, event in clicks().items() if at < 20}, CARTS: carts()}

    def flush() -> None:
        world.lake.ends, world.lake.entries = {CLICKS: 30, CARTS: 4}, {CLICKS: clicks(), CARTS: carts()}

    world.sleeps = [lambda: None, flush]
    report = world.compare()
    assert (report.difference_count, report.gaps) == (0, [])
    assert len({way.total for way in report.ways.values()}) == 1


def test_a_lake_that_stays_behind_is_told_and_not_taken_for_equal() -> None:
    world = World()
    world.lake.ends = {CLICKS: 20, CARTS: 4}
    world.lake.entries = {CLICKS: {at: event for at, event in clicks().items() if at < 20}, CARTS: carts()}
    report = world.compare()
    assert report.difference_count == 0
    assert gaps(report) == {("lake", CLICKS_TOPIC, Gap.BEHIND, 3)}
    assert len(report.failures) == 1


def test_kafka_that_begins_too_late_is_compared_where_it_can_be() -> None:
    world = World()
    world.in_kafka(CARTS, without(carts(), 0), begins={CARTS: LakeReach(1, T0)})
    report = world.compare()
    assert report.difference_count == 0
    assert gaps(report) == {("kafka", CARTS_TOPIC, Gap.TOO_SHORT, 1)}
    assert "from offset 1 on" in str(report.gaps[0])
    assert (report.failures, report.state_count) == ([], 4)
    assert (report.ways["kafka"].state_count, report.ways["lake"].state_count) == (3, 4)


def test_a_user_who_came_after_retention_is_compared_in_kafka_too() -> None:
    world = World()
    world.in_kafka(CLICKS, {at: event for at, event in clicks().items() if at >= 1}, begins={CLICKS: LakeReach(1, T0)})
    report = world.compare()  # anna's first click was at 0, the others' first at 1 and 2
    assert gaps(report) == {("kafka", CLICKS_TOPIC, Gap.TOO_SHORT, 1)}
    world.in_kafka(CLICKS, without(clicks(), 0, 5), begins={CLICKS: LakeReach(1, T0)})
    assert [user.user_id for user in world.compare().differing] == ["cora"]


def test_kafka_that_reaches_25_hours_back_is_enough() -> None:
    later = {30: msgspec.structs.replace(clicks()[0], event_id="later", event_time_ms=T0 + 30 * HOUR)}
    log = clicks() | later
    world = World()
    for source in (world.kafka, world.lake):
        source.ends = {CLICKS: 31, CARTS: 4}
    world.live.held[CLICKS_TOPIC][0] = replace(world.live.held[CLICKS_TOPIC][0], next_offset=31)
    world.live.states["anna"] = {CLICKS_TOPIC: folded(log, "anna")}
    world.in_lake(CLICKS, log)
    world.in_lake(CARTS, {})
    world.in_kafka(CARTS, {})
    world.in_kafka(CLICKS, later, begins={CLICKS: LakeReach(29, T0 + HOUR)})
    report = world.compare()
    assert gaps(report) == {("kafka", CLICKS_TOPIC, Gap.TOO_SHORT, 2)}
    assert report.difference_count == 0
    assert report.ways["kafka"].state_count == 1


def test_partial_states_of_a_partition_in_rebuilding_are_told() -> None:
    world = World()
    world.live.held[CLICKS_TOPIC][0] = replace(world.live.held[CLICKS_TOPIC][0], status=PartitionStatus.REBUILDING)
    del world.live.states["ben"]
    partial = [(at, event) for at, event in clicks().items() if event.user_id == "cora" and at > 20]
    world.live.states["cora"] = {CLICKS_TOPIC: fold(None, partial, partial=True).state}
    report = world.compare()
    assert report.difference_count == 0
    assert gaps(report) == {("live", CLICKS_TOPIC, Gap.REBUILDING, 2)}
    assert report.failures
    assert (report.ways["live"].state_count, report.ways["kafka"].state_count) == (2, 4)


def test_an_emptied_store_is_told() -> None:
    world = World()
    world.live.states.clear()
    world.live.held = {CLICKS_TOPIC: {}, CARTS_TOPIC: {}}
    report = world.compare()
    assert report.difference_count == 0
    assert {gap for _, _, gap, _ in gaps(report)} == {Gap.LOST}
    assert report.failures


def test_states_of_another_log_are_told() -> None:
    world = World()
    world.live.held[CLICKS_TOPIC][0] = replace(world.live.held[CLICKS_TOPIC][0], epoch="other:1")
    report = world.compare()
    assert ("live", CLICKS_TOPIC, Gap.OTHER_LOG, 3) in gaps(report)
    assert report.difference_count == 0


def test_nothing_at_all_is_a_failure() -> None:
    world = World()
    world.live.states.clear()
    for source in (world.kafka, world.lake):
        source.entries, source.ends = {}, {CLICKS: 0, CARTS: 0}
    assert world.compare().failures == ["nothing was found that two ways could tell of"]


def test_erased_users_come_back_in_no_way() -> None:
    world = World()
    pseudonyms = Pseudonyms.required(PrivacySettings.model_validate({"key": "k" * 16}))
    ends = [(log_of(topic, TOPICS[topic].log_epoch, 0), pseudonyms.subject("anna"), 20) for topic in TOPICS]
    world.tombstones = replace(Tombstones().with_ends(ends), pseudonyms=pseudonyms)
    rest = {at: event for at, event in clicks().items() if at >= 20 or event.user_id != "anna"}
    world.live.states["anna"] = {CLICKS_TOPIC: folded(rest, "anna")}
    world.in_lake(CLICKS, rest)
    world.in_lake(CARTS, {})
    report = world.compare()
    assert (report.difference_count, report.gaps, report.state_count) == (0, [], 3)


def test_what_live_took_for_a_dead_letter_is_not_folded_from_kafka() -> None:
    world = World()
    world.in_lake(CLICKS, without(clicks(), 12))
    world.live.states["anna"][CLICKS_TOPIC] = folded(without(clicks(), 12), "anna")
    assert world.compare().difference_count > 0
    world.letters = {CLICKS_TOPIC: {12}}
    assert world.compare().difference_count == 0


def test_users_whose_partition_the_id_does_not_tell_are_compared() -> None:
    world = World()
    world.has_pseudonyms = True
    world.live.states["nobody"] = {CLICKS_TOPIC: folded(clicks(), "ben")}
    report = world.compare()
    assert [user.user_id for user in report.differing] == ["nobody"]


def test_a_sample_is_the_same_each_time_and_reads_only_its_users() -> None:
    world = World()
    report = world.compare(users=2)
    assert report.user_count == 2
    (chosen,) = world.live.read_users
    assert world.compare(users=2).user_count == 2
    assert world.live.read_users == [chosen, chosen]
    assert {tuple(asked or ()) for asked in world.kafka.asked} == {tuple(chosen)}


def test_the_past_is_raised_to_the_newest_event_in_all_ways() -> None:
    report = World().compare(instants_of=instants_at([T0, T0 + HOUR]))
    assert report.difference_count == 0
    assert report.value_count == 3 * 2 * len(report.ways["live"].hashes.keys() - TOPICS.keys())
