"""Fresh features through FeatureReader and `shopstream features`, on the real online store."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.context import Invocation
from cli.features import app
from config.settings import Settings
from feature_repo.errors import NotAppliedError, OnlineStoreError
from feature_repo.fence import Fence, PartitionStatus
from feature_repo.opening import apply_definitions, open_feature_store
from features.apply import fold
from features.catalog import FEATURES, VIEWS
from features.finalize import finalize
from features.state import decode
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.partitioner import partition_of
from serving.errors import UnreadableStateError
from serving.reader import FeatureReader, UserFeatures, ViewStatus
from sinks.online import OnlineSink
from tests.fakes.online import InMemoryFences

pytestmark = pytest.mark.stack

NOON_MS = 1_700_000_000_000
SERVABLE_MS = NOON_MS + 500
STALE_AFTER_MS = 60_000
CLICKS_VIEW, CARTS_VIEW = VIEWS[CLICKS_TOPIC].view, VIEWS[CARTS_TOPIC].view


def state(topic: str, *, partial: bool = False, offset: int = 41) -> bytes:
    more: dict[str, Any] = {"quantity": 1, "unit_price_minor": 500, "currency": "EUR"} if topic == CARTS_TOPIC else {}
    kind = "add" if topic == CARTS_TOPIC else "page_view"
    event = Event(event_id="e", kind=kind, user_id="u", event_time_ms=NOON_MS, product_id="p", **more)
    return fold(None, [(offset, event)], partial=partial).state


class Shop:
    """An online store to push to, a clock to set, and fences to place."""

    def __init__(self, settings: Settings) -> None:
        apply_definitions(settings)
        self.store = open_feature_store(settings)
        self.fences = InMemoryFences()
        self.now_ms = NOON_MS + 1_000
        self.reader = FeatureReader(
            self.store, self.fences, stale_after_ms=STALE_AFTER_MS, clock_ms=lambda: self.now_ms
        )

    def push(self, topic: str, rows: Mapping[str, bytes], servable_ms: int = SERVABLE_MS) -> None:
        async def body() -> None:
            await OnlineSink(self.store).push(topic, list(rows.items()), servable_ms)
            await self.store.close()

        asyncio.run(body())

    def fence(self, topic: str, user_id: str, status: PartitionStatus) -> None:
        partition = partition_of(user_id.encode(), 4)
        asyncio.run(self.fences.replace(topic, partition, Fence("topic-id:4", 1, status, 1)))

    def halt(self, topic: str, since_ms: int) -> None:
        self.fences.halt_blocking(topic, since_ms)

    def read(self, user_id: str, as_of_ms: int | None = None) -> UserFeatures:
        return self.reader.read([user_id], as_of_ms)[0]


@pytest.fixture
def shop(settings: Settings) -> Iterator[Shop]:
    opened = Shop(settings)
    yield opened
    opened.reader.close()


def test_values_with_their_freshness(shop: Shop) -> None:
    clicks, carts = state(CLICKS_TOPIC), state(CARTS_TOPIC, offset=6)
    shop.push(CLICKS_TOPIC, {"u": clicks})
    shop.push(CARTS_TOPIC, {"u": carts}, SERVABLE_MS + 7)
    answer = shop.read("u")
    expected = finalize({CLICKS_TOPIC: decode(clicks), CARTS_TOPIC: decode(carts)}, shop.now_ms)
    assert answer.values == {feature.name: expected[feature.name] for feature in FEATURES}
    assert (answer.as_of_ms, answer.clamped, answer.found, answer.saturated) == (shop.now_ms, False, True, ())
    freshness = answer.views[CLICKS_VIEW]
    assert (freshness.status, freshness.version) == (ViewStatus.FRESH, 42)
    assert (freshness.newest_event_ms, freshness.servable_ms, freshness.age_ms) == (NOON_MS, SERVABLE_MS, 500)
    assert (answer.views[CARTS_VIEW].version, answer.views[CARTS_VIEW].age_ms) == (7, 493)


def test_users_come_back_in_order_also_twice_and_unknown(shop: Shop) -> None:
    shop.push(CLICKS_TOPIC, {"a": state(CLICKS_TOPIC), "b": state(CLICKS_TOPIC)})
    answers = shop.reader.read(["b", "nobody", "a", "b"])
    assert [answer.user_id for answer in answers] == ["b", "nobody", "a", "b"]
    assert [answer.found for answer in answers] == [True, False, True, True]
    assert answers[0] == answers[3]
    assert shop.reader.read([]) == []


def test_an_unknown_user_is_missing_and_has_the_values_of_no_events(shop: Shop) -> None:
    answer = shop.read("nobody")
    assert {view.status for view in answer.views.values()} == {ViewStatus.MISSING}
    assert not answer.found
    expected = finalize({}, shop.now_ms)
    assert answer.values == {feature.name: expected[feature.name] for feature in FEATURES}
    assert answer.values["last_products_24h"] == []


def test_an_instant_before_the_newest_event_is_raised_to_it(shop: Shop) -> None:
    shop.push(CLICKS_TOPIC, {"u": state(CLICKS_TOPIC)})
    answer = shop.read("u", NOON_MS - 5_000)
    assert (answer.as_of_ms, answer.clamped) == (NOON_MS, True)


def test_values_decay_while_nothing_is_written(shop: Shop) -> None:
    shop.push(CLICKS_TOPIC, {"u": state(CLICKS_TOPIC)})
    assert shop.read("u").values["session_open"] is True
    shop.now_ms = NOON_MS + 31 * 60_000
    answer = shop.read("u")
    assert (answer.values["session_open"], answer.values["page_view_count_30m"]) == (False, 0)


def test_a_view_not_written_for_long_is_stale(shop: Shop) -> None:
    shop.push(CLICKS_TOPIC, {"u": state(CLICKS_TOPIC)})
    shop.now_ms = SERVABLE_MS + STALE_AFTER_MS
    assert shop.read("u").views[CLICKS_VIEW].status is ViewStatus.FRESH
    shop.now_ms += 1
    assert shop.read("u").views[CLICKS_VIEW].status is ViewStatus.STALE
    assert shop.read("u").views[CARTS_VIEW].status is ViewStatus.MISSING


def test_a_state_born_in_a_rebuild_is_told(shop: Shop) -> None:
    shop.push(CLICKS_TOPIC, {"u": state(CLICKS_TOPIC, partial=True)})
    assert shop.read("u").views[CLICKS_VIEW].status is ViewStatus.REBUILDING


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (PartitionStatus.LIVE, ViewStatus.FRESH),
        (PartitionStatus.REBUILDING, ViewStatus.REBUILDING),
    ],
)
def test_the_status_of_the_users_own_partition_counts(
    shop: Shop, status: PartitionStatus, expected: ViewStatus
) -> None:
    elsewhere = next(f"u{n}" for n in range(100) if partition_of(f"u{n}".encode(), 4) != partition_of(b"u", 4))
    shop.push(CLICKS_TOPIC, {"u": state(CLICKS_TOPIC), elsewhere: state(CLICKS_TOPIC)})
    shop.fence(CLICKS_TOPIC, elsewhere, PartitionStatus.LIVE)
    shop.fence(CLICKS_TOPIC, "u", status)
    assert shop.read("u").views[CLICKS_VIEW].status is expected
    assert shop.read(elsewhere).views[CLICKS_VIEW].status is ViewStatus.FRESH
    assert shop.read("u").views[CARTS_VIEW].status is ViewStatus.MISSING


def test_fences_are_asked_for_again_after_a_second(shop: Shop) -> None:
    shop.push(CLICKS_TOPIC, {"u": state(CLICKS_TOPIC)})
    assert shop.read("u").views[CLICKS_VIEW].status is ViewStatus.FRESH
    shop.fence(CLICKS_TOPIC, "u", PartitionStatus.REBUILDING)
    shop.now_ms += 999
    assert shop.read("u").views[CLICKS_VIEW].status is ViewStatus.FRESH
    shop.now_ms += 1
    assert shop.read("u").views[CLICKS_VIEW].status is ViewStatus.REBUILDING


def test_a_halt_is_told_first_with_its_beginning_also_where_there_is_no_state(shop: Shop) -> None:
    shop.push(CLICKS_TOPIC, {"u": state(CLICKS_TOPIC, partial=True)})
    shop.fence(CLICKS_TOPIC, "u", PartitionStatus.REBUILDING)
    assert shop.read("u").views[CLICKS_VIEW].halted_since_ms is None
    shop.halt(CLICKS_TOPIC, since_ms=77)
    shop.now_ms += 1_000
    for user in ("u", "nobody"):
        shop.fence(CLICKS_TOPIC, user, PartitionStatus.REBUILDING)
        view = shop.read(user).views[CLICKS_VIEW]
        assert (view.status, view.halted_since_ms) == (ViewStatus.HALTED, 77)


def test_a_state_that_cannot_be_read_is_an_error_that_names_the_user(shop: Shop) -> None:
    shop.push(CLICKS_TOPIC, {"broken": b"no state" + state(CLICKS_TOPIC)[-18:], "whole": state(CLICKS_TOPIC)})
    with pytest.raises(UnreadableStateError, match="broken") as raised:
        shop.reader.read(["whole", "broken"])
    assert raised.value.status_by_user == {"broken": f"unreadable: {CLICKS_VIEW}"}
    assert shop.read("whole").found


def test_a_project_without_definitions_says_so(settings: Settings) -> None:
    with pytest.raises(NotAppliedError, match="feast -c feature_repo apply"):
        FeatureReader.from_settings(settings)


def test_a_redis_that_does_not_answer_says_so(settings: Settings) -> None:
    apply_definitions(settings)
    nowhere = settings.model_copy(update={"redis": settings.redis.model_validate({"url": "redis://127.0.0.1:1/0"})})
    reader = FeatureReader.from_settings(nowhere)
    with pytest.raises(OnlineStoreError, match="does not answer"):
        reader.read(["u"])


def invoke(settings: Settings, *arguments: str) -> Any:
    overrides = settings.model_dump(mode="python", exclude_unset=True)
    return CliRunner().invoke(app, list(arguments), obj=Invocation(overrides=overrides))


def test_the_command_prints_values_age_and_status(shop: Shop, settings: Settings) -> None:
    shop.push(CLICKS_TOPIC, {"u": state(CLICKS_TOPIC)})
    told = invoke(settings, "get", "u", "nobody", "--as-of", str(NOON_MS), "--json")
    assert told.exit_code == 0, told.output
    known, unknown = json.loads(told.stdout)["users"]
    assert (known["found"], known["as_of_ms"], known["values"]["page_view_count_5m"]) == (True, NOON_MS, 1)
    assert known["views"][CLICKS_VIEW]["status"] == "STALE"
    assert (unknown["found"], unknown["views"][CLICKS_VIEW]["status"]) == (False, "MISSING")

    text = invoke(settings, "get", "u", "nobody")
    assert text.exit_code == 0, text.output
    assert "page_view_count" in text.stdout
    assert "MISSING" in text.stdout


def test_the_command_fails_when_nobody_is_known(shop: Shop, settings: Settings) -> None:
    told = invoke(settings, "get", "nobody", "--json")
    assert told.exit_code == 1
    assert json.loads(told.stdout)["users"][0]["found"] is False
    assert told.stderr.count("\n") == 1
    assert "nothing of user nobody" in told.stderr


def test_the_command_lists_the_catalog(settings: Settings) -> None:
    told = json.loads(invoke(settings, "list", "--json").stdout)
    assert [row["name"] for row in told["features"]] == [feature.name for feature in FEATURES]
    assert "cart_value_minor_30m" in invoke(settings, "list").stdout
