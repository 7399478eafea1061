"""States do not depend on how a log was delivered, and values equal brute force (tests/oracle.py) at any instant.

Events are made first, permuted next and numbered last: what is late or a duplicate is decided in the order of the log.
"""

from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from features.apply import Outcome, apply, fold
from features.errors import StateError
from features.finalize import finalize
from features.retention import LATENESS_MS
from features.state import TRAILER_BYTES, decode, encode, read_trailer
from features.versioning import WriteOutcome, decide
from schemas.event import EVENT_TOPICS, Event
from tests.logs import DAY, HOUR, MINUTE, SECOND, Log, event, logs_of, numbered, states_of
from tests.oracle import accepted, expected

EXAMPLES = settings(max_examples=120, deadline=None, database=None, print_blob=True)

EDGES = (10 * SECOND, MINUTE, 5 * MINUTE, LATENESS_MS, 15 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 12 * HOUR, DAY)
steps_ms = st.one_of(
    st.sampled_from((0, 0, 1, 999)),
    st.integers(0, 2 * MINUTE),
    st.builds(lambda edge, off: edge + off, st.sampled_from(EDGES), st.integers(-1, 1)),
)
kinds = st.sampled_from(("page_view", "page_view", "click", "search", "add", "remove", "purchase"))
products = st.sampled_from((None, *(f"p{n}" for n in range(13))))
categories = st.sampled_from((None, "c1", "c2", "c3"))
instants_ms = st.one_of(st.none(), st.integers(-HOUR, -1), steps_ms, st.integers(0, 2 * DAY))


@st.composite
def visits(draw: st.DrawFn, most: int = 40) -> list[Event]:
    """Events of one user in event-time order, some twice, on the edges of panes and sessions more often than not."""
    made: list[Event] = []
    at_ms = draw(st.integers(-DAY, DAY))
    rows = draw(st.lists(st.tuples(steps_ms, kinds, products, categories, st.booleans()), min_size=1, max_size=most))
    for n, (step_ms, kind, product, category, twice) in enumerate(rows):
        at_ms += step_ms
        ids: dict[str, Any] = {"category_id": category} | ({"product_id": product} if product else {})
        money = {"quantity": 1 + n % 3, "unit_price_minor": 7 * n} if kind in {"add", "remove", "purchase"} else {}
        one = event(at_ms, kind, f"e{n}", **ids, **money)
        made += [one, one] if twice and n % 4 == 0 else [one]
    return made


def arrivals(events: Sequence[Event], delays_ms: Sequence[int]) -> list[Event]:
    """Let each event arrive its delay after it happened; delays are used in turn."""
    order = sorted(range(len(events)), key=lambda n: events[n].event_time_ms + delays_ms[n % len(delays_ms)])
    return [events[n] for n in order]


delays_within = st.lists(st.integers(0, LATENESS_MS), min_size=1, max_size=40)
delays_beyond = st.lists(st.integers(0, 3 * LATENESS_MS), min_size=1, max_size=40)


def body(blob: bytes) -> bytes:
    return blob[:-TRAILER_BYTES]


def whole(log: Log) -> bytes:
    return fold(None, log).state


def differences(logs: dict[str, Log], as_of_ms: int | None) -> dict[str, tuple[Any, Any]]:
    got, want = finalize(states_of(logs), as_of_ms), expected(logs, as_of_ms)
    return {name: (got[name], want[name]) for name in want if repr(got[name]) != repr(want[name])}


@EXAMPLES
@given(visits(), delays_beyond, instants_ms)
def test_every_value_equals_the_oracle(events: list[Event], delays_ms: list[int], instant_ms: int | None) -> None:
    logs = logs_of(arrivals(events, delays_ms))
    newest_ms = max(each.event_time_ms for log in logs.values() for each in accepted(log))

    assert differences(logs, None if instant_ms is None else newest_ms + instant_ms) == {}


@EXAMPLES
@given(st.randoms(use_true_random=False))
def test_every_value_of_a_long_log_equals_the_oracle(random_: Random) -> None:
    """Days of visits, cheap to make, at instants around every edge."""
    at_ms, made = random_.randrange(DAY), []
    for n in range(random_.randrange(50, 200)):
        at_ms += random_.choice((random_.randrange(MINUTE), random_.randrange(MINUTE), random_.choice(EDGES)))
        kind = random_.choice(("page_view", "click", "search", "add", "remove", "purchase"))
        made.append(event(at_ms, kind, f"e{n}", product_id=f"p{random_.randrange(40)}"))
    copies = random_.sample(made, 10)
    delays_ms = [random_.choice((0, 0, random_.randrange(2 * LATENESS_MS))) for _ in range(50)]
    logs = logs_of(arrivals(sorted(made + copies, key=lambda each: each.event_time_ms), delays_ms))
    newest_ms = max(each.event_time_ms for log in logs.values() for each in accepted(log))
    for later_ms in (0, 1, *(random_.choice((edge - 1, edge, edge + 1)) for edge in EDGES)):
        assert differences(logs, newest_ms + later_ms) == {}


@EXAMPLES
@given(st.data(), st.integers(0, 2 * DAY))
def test_any_permutation_whatever_is_late_in_it_equals_the_oracle(data: st.DataObject, later_ms: int) -> None:
    events = data.draw(st.permutations(data.draw(visits(most=15))))
    logs = logs_of(events)
    newest_ms = max(each.event_time_ms for log in logs.values() for each in accepted(log))

    assert differences(logs, newest_ms + later_ms) == {}


@EXAMPLES
@given(visits(), delays_within)
def test_any_order_within_the_lateness_gives_the_same_bytes(events: list[Event], delays_ms: list[int]) -> None:
    in_order, disordered = logs_of(events), logs_of(arrivals(events, delays_ms))

    for topic in EVENT_TOPICS:
        if in_order[topic]:
            assert body(whole(disordered[topic])) == body(whole(in_order[topic]))


@EXAMPLES
@given(visits(), delays_beyond, st.data())
def test_any_split_and_any_redelivery_gives_the_same_bytes(
    events: list[Event], delays_ms: list[int], data: st.DataObject
) -> None:
    for log in logs_of(arrivals(events, delays_ms)).values():
        blob, done = None, 0
        outcomes: dict[int, Outcome] = {}
        while done < len(log):
            first = data.draw(st.integers(0, done), label="deliver again from")
            until = data.draw(st.integers(done + 1, len(log)), label="up to")
            result = fold(blob, log[first:until])
            assert set(result.outcomes[: done - first]) <= {Outcome.REDELIVERED}
            outcomes |= {offset: result.outcomes[offset - first] for offset in range(done, until)}
            blob, done = result.state, until
        if blob is not None:
            once = fold(None, log)
            assert body(blob) == body(once.state)
            assert read_trailer(blob).version == len(log)
            assert [outcomes[offset] for offset, _ in log] == once.outcomes
            assert once.outcomes.count(Outcome.APPLIED) == len(accepted(log))


@EXAMPLES
@given(visits(), delays_beyond, st.randoms(use_true_random=False))
def test_any_interleaving_of_the_topics_in_any_batches_gives_the_same_values(
    events: list[Event], delays_ms: list[int], random_: Random
) -> None:
    logs = logs_of(arrivals(events, delays_ms))
    position = dict.fromkeys(EVENT_TOPICS, 0)
    blobs: dict[str, bytes | None] = dict.fromkeys(EVENT_TOPICS)
    while waiting := [topic for topic in EVENT_TOPICS if position[topic] < len(logs[topic])]:
        topic = random_.choice(waiting)
        until = position[topic] + random_.randrange(1, 6)
        blobs[topic] = fold(blobs[topic], logs[topic][position[topic] : until]).state
        position[topic] = until
    states = {topic: None if blob is None else decode(blob) for topic, blob in blobs.items()}

    assert finalize(states, None) == finalize(states_of(logs), None)


@EXAMPLES
@given(visits(most=20), delays_beyond)
def test_one_by_one_equals_the_fold_and_bytes_round_trip(events: list[Event], delays_ms: list[int]) -> None:
    for log in logs_of(arrivals(events, delays_ms)).values():
        state = None
        for offset, each in log:
            state = apply(state, each, offset)
        if state is not None:
            blob = encode(state)
            assert blob == whole(log)
            assert decode(blob) == state


@EXAMPLES
@given(visits(), st.randoms(use_true_random=False))
def test_two_workers_with_stale_caches_lose_nothing(events: list[Event], random_: Random) -> None:
    """A partition moves between two workers that keep their caches; each starts again from some earlier offset."""
    log = numbered(sorted(events, key=lambda each: each.event_time_ms))
    log = [(offset, each) for offset, each in log if each.kind in {"page_view", "click", "search"}]
    stored: bytes | None = None
    caches: list[bytes | None] = [None, None]
    done = 0
    while done < len(log):
        worker = random_.randrange(2)
        first = random_.randrange(done + 1)
        until = random_.randrange(done, len(log)) + 1
        built = fold(caches[worker], log[first:until]).state
        outcome = offer(stored, built)
        if outcome is WriteOutcome.CONFLICT:
            built = fold(stored, log[first:until]).state
            outcome = offer(stored, built)
        assert outcome is not WriteOutcome.CONFLICT
        if outcome is WriteOutcome.WRITTEN:
            stored = built
        caches[worker] = stored
        done = until

    assert stored is None or body(stored) == body(whole(log))


def offer(stored: bytes | None, new: bytes) -> WriteOutcome:
    return decide(None if stored is None else read_trailer(stored), read_trailer(new))


@EXAMPLES
@given(st.binary(max_size=200), visits(most=8), st.data())
def test_junk_is_refused_with_a_state_error_and_no_other(junk: bytes, events: list[Event], data: st.DataObject) -> None:
    good = whole(max(logs_of(events).values(), key=len))
    cut = data.draw(st.integers(0, len(good)))
    for blob in (junk, good[:cut], good[:cut] + junk + good[cut:]):
        with suppress(StateError):
            decode(blob)
