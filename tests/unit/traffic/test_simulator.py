import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

from schemas import rules
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, KINDS_BY_TOPIC, Event
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import BrokenEvent, Defect, Mark, TimedEvent

START_MS = 1_700_000_000_000
ROOT = Path(__file__).resolve().parents[3]
COUNT = 200_000
MINUTE_MS = 60_000


def simulate(count: int, **changes: object) -> list[TimedEvent]:
    config = SimulatorConfig(**{"seed": 7, "start_ms": START_MS, **changes})  # type: ignore[arg-type]
    return list(Simulator(config, count).events())


def good(events: Iterable[TimedEvent]) -> list[Event]:
    """The events of the sessions themselves: nothing broken, nothing twice."""
    return [t.payload for t in events if isinstance(t.payload, Event) and t.mark is not Mark.DUPLICATE]


@pytest.fixture(scope="module")
def traffic() -> list[TimedEvent]:
    return simulate(COUNT, rate=5_000.0, broken_share=0.002)


@pytest.fixture(scope="module")
def sessions(traffic: list[TimedEvent]) -> dict[str, Counter[str]]:
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for event in good(traffic):
        kinds[str(event.session_id)][event.kind] += 1
    return kinds


def test_a_session_has_1_2_clicks_on_average(sessions: dict[str, Counter[str]]) -> None:
    clicks = sum(kinds["click"] for kinds in sessions.values())
    assert clicks / len(sessions) == pytest.approx(1.2, rel=0.03)


def test_68_percent_of_the_carts_are_abandoned(sessions: dict[str, Counter[str]]) -> None:
    carts = [kinds for kinds in sessions.values() if kinds["add"]]
    assert sum(not kinds["purchase"] for kinds in carts) / len(carts) == pytest.approx(0.68, abs=0.02)


def test_2_3_percent_of_the_sessions_buy(sessions: dict[str, Counter[str]]) -> None:
    assert sum(kinds["purchase"] > 0 for kinds in sessions.values()) / len(sessions) == pytest.approx(0.023, rel=0.1)


def test_every_kind_of_event_occurs(traffic: list[TimedEvent]) -> None:
    found = {(t.topic, t.payload.kind) for t in traffic if isinstance(t.payload, Event)}
    assert found == {(topic, kind) for topic, kinds in KINDS_BY_TOPIC.items() for kind in kinds}


def test_every_good_event_keeps_the_rules(traffic: list[TimedEvent]) -> None:
    problems = [rules.value_problem(t.topic, t.payload) for t in traffic if isinstance(t.payload, Event)]
    assert set(problems) == {None}


def test_a_cart_never_holds_less_than_nothing_and_a_purchase_is_what_it_holds() -> None:
    held: dict[tuple[str, str], int] = Counter()
    for event in good(simulate(50_000)):
        quantity, cart = event.quantity or 0, (str(event.session_id), str(event.product_id))
        if event.kind == "add":
            held[cart] += quantity
        elif event.kind == "remove":
            held[cart] -= quantity
            assert held[cart] == 0
        elif event.kind == "purchase":
            assert held[cart] == quantity


@pytest.mark.parametrize("count", [300, 5_000])
def test_a_bounded_run_holds_whole_sessions(count: int) -> None:
    """So the shares of a short run are those of a long one: only the very last sessions lack their end."""
    config = SimulatorConfig(seed=3, start_ms=START_MS, rate=1_000.0)
    simulator = Simulator(config, count)
    events = list(simulator.events())
    assert len(events) == count
    assert sum(len(session.steps) for session in simulator._open) <= 25


def test_the_same_seed_gives_the_same_events_in_any_process() -> None:
    script = (
        "import hashlib; from traffic.simulator import Simulator, SimulatorConfig;"
        f"c = SimulatorConfig(seed=7, start_ms={START_MS}, broken_share=0.01);"
        "print(hashlib.sha256(repr(list(Simulator(c, 3000).events())).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "TZ": zone},
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }
    assert len(digests) == 1


def test_another_seed_gives_other_events() -> None:
    assert [e.kind for e in good(simulate(200))] != [e.kind for e in good(simulate(200, seed=8))]


def test_another_start_gives_the_same_events_with_ids_of_their_own() -> None:
    first, second = good(simulate(2_000)), good(simulate(2_000, start_ms=START_MS + 1))
    assert [(e.kind, e.user_id, e.product_id) for e in first] == [(e.kind, e.user_id, e.product_id) for e in second]
    assert {e.event_id for e in first}.isdisjoint(e.event_id for e in second)


def test_event_ids_are_unique_but_for_duplicates(traffic: list[TimedEvent]) -> None:
    ids = [event.event_id for event in good(traffic)]
    assert len(set(ids)) == len(ids)
    assert max(len(event_id.encode()) for event_id in ids) <= rules.EVENT_ID_BYTES_MAX


def test_events_are_sent_evenly_and_happen_when_they_are_sent(traffic: list[TimedEvent]) -> None:
    assert [t.send_ms for t in traffic] == [int(tick * 1_000 / 5_000.0) for tick in range(COUNT)]
    plain = [t for t in traffic if t.mark is Mark.PLAIN and isinstance(t.payload, Event)]
    assert all(isinstance(t.payload, Event) and t.payload.event_time_ms == START_MS + t.send_ms for t in plain)


def test_shares_are_as_configured() -> None:
    config = {"late_share": 0.03, "disorder_share": 0.04, "duplicate_share": 0.05, "broken_share": 0.06}
    marks = Counter(t.mark for t in simulate(50_000, **config))
    measured = [marks[mark] / 50_000 for mark in (Mark.LATE, Mark.DISORDERED, Mark.DUPLICATE, Mark.BROKEN)]
    assert measured == pytest.approx(list(config.values()), rel=0.1)


def test_nothing_is_late_twice_or_broken_unless_asked_for() -> None:
    quiet = {"late_share": 0.0, "disorder_share": 0.0, "duplicate_share": 0.0, "broken_share": 0.0}
    assert {t.mark for t in simulate(5_000, **quiet)} == {Mark.PLAIN}


def test_a_late_event_is_beyond_the_allowed_lateness_of_its_user_and_topic() -> None:
    newest: dict[tuple[str, str], int] = {}
    behind_ms: list[int] = []
    for timed in simulate(30_000, late_share=0.02, disorder_share=0.0):
        event = timed.payload
        assert isinstance(event, Event)
        of_user = (timed.topic, event.user_id)
        if timed.mark is Mark.LATE:
            behind_ms.append(newest[of_user] - event.event_time_ms)
        newest[of_user] = max(newest.get(of_user, 0), event.event_time_ms)
    beyond = [ms > 10 * MINUTE_MS for ms in behind_ms]
    # the earlier event of the session may have been late itself
    assert sum(beyond) / len(beyond) > 0.95


def test_a_duplicate_repeats_an_event_that_was_sent_shortly_before() -> None:
    events = simulate(5_000, duplicate_share=0.05)
    for at, timed in enumerate(events):
        if timed.mark is Mark.DUPLICATE:
            assert timed.payload in [earlier.payload for earlier in events[max(0, at - 400) : at]]


def test_every_defect_comes_in_turn() -> None:
    broken = [t for t in simulate(3_000, broken_share=0.1) if isinstance(t.payload, BrokenEvent)]
    defects = [t.payload.defect for t in broken if isinstance(t.payload, BrokenEvent)]
    assert defects[: len(Defect)] == list(Defect)
    by_topic = {(t.topic, t.payload.defect) for t in broken if isinstance(t.payload, BrokenEvent)}
    assert (CARTS_TOPIC, Defect.NEGATIVE_QUANTITY) in by_topic
    assert (CLICKS_TOPIC, Defect.MISSING_FIELD) in by_topic


def test_sessions_overlap() -> None:
    open_at_once: set[str] = set()
    for event in islice(good(simulate(20_000)), 2_000):
        open_at_once.add(str(event.session_id))
    assert len(open_at_once) > 500


def test_a_user_has_one_session_at_a_time() -> None:
    session_of: dict[str, str] = {}
    ended: set[str] = set()
    for event in good(simulate(20_000, users=50)):
        user, session = event.user_id, str(event.session_id)
        if session_of.get(user) != session:
            assert session not in ended
            ended.add(session_of.get(user, ""))
            session_of[user] = session
    assert len(session_of) == 50


def test_few_products_get_most_views(traffic: list[TimedEvent]) -> None:
    views = Counter(event.product_id for event in good(traffic) if event.product_id)
    ranked = [count for _, count in views.most_common()]
    # Zipf's law with exponent 1 over 5,000 products: the n-th gets 1 / n of the first
    assert ranked[0] / ranked[9] == pytest.approx(10.0, rel=0.25)
    assert sum(ranked[:50]) / sum(ranked) == pytest.approx(0.49, abs=0.05)


def test_few_users_have_most_sessions() -> None:
    sessions = Counter(user for user, _ in {(e.user_id, e.session_id) for e in good(simulate(100_000, rate=100.0))})
    ranked = [count for _, count in sessions.most_common()]
    assert sum(ranked[: len(ranked) // 10]) / sum(ranked) > 0.4


def test_one_user_is_enough() -> None:
    assert {event.user_id for event in good(simulate(100, users=1))} == {"u0"}


def test_without_a_count_it_does_not_end() -> None:
    simulator = Simulator(SimulatorConfig(seed=1, start_ms=START_MS, rate=10.0))
    assert len(list(islice(simulator.events(), 20_000))) == 20_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.0},
        {"late_share": -0.1},
        {"broken_share": 0.5, "duplicate_share": 0.5},
        {"users": 0},
        {"think_s": 0.0},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        simulate(1, **wrong)
