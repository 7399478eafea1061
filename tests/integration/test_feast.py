"""The feature repository as Feast's own tools and stock code see it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from feature_repo.fence import FenceStore
from feature_repo.opening import apply_definitions, feature_service, open_feature_store
from features.apply import fold
from features.catalog import FEATURES, ON_DEMAND_VIEW, STATUS_FIELDS, VIEWS
from features.finalize import finalize
from features.state import decode
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from sinks.online import OnlineSink

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[2]
NOON_MS = 1_700_000_000_000
SERVABLE_MS = NOON_MS + 123
NAMES = [*(feature.name for feature in FEATURES), *(field.name for field in STATUS_FIELDS)]


def event(kind: str, seconds: int, **fields: Any) -> Event:
    return Event(
        event_id=f"{kind}-{seconds}", kind=kind, user_id="u", event_time_ms=NOON_MS + seconds * 1_000, **fields
    )


CLICKS = [
    event("page_view", 0, product_id="p1", category_id="c1"),
    event("click", 5, product_id="p2", category_id="c1"),
    event("search", 9, query="shoes"),
]
CARTS = [event("add", 60, product_id="p2", quantity=2, unit_price_minor=1_999, currency="EUR")]


@pytest.fixture
def states() -> dict[str, bytes]:
    logs = {CLICKS_TOPIC: CLICKS, CARTS_TOPIC: CARTS}
    return {topic: fold(None, list(enumerate(log))).state for topic, log in logs.items()}


@pytest.fixture
def store(settings: Settings, states: dict[str, bytes]) -> Any:
    """A store that holds both states of user `both`, and the clicks of user `clicks`."""
    apply_definitions(settings)
    opened = open_feature_store(settings)

    async def push() -> None:
        sink = OnlineSink(opened)
        await sink.push(CLICKS_TOPIC, [("both", states[CLICKS_TOPIC]), ("clicks", states[CLICKS_TOPIC])], SERVABLE_MS)
        await sink.push(CARTS_TOPIC, [("both", states[CARTS_TOPIC])], SERVABLE_MS + 1)
        await opened.close()

    asyncio.run(push())
    return opened


def feast(settings: Settings, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Type `feast -c feature_repo …` in a shell in which the settings say where everything is."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOPSTREAM_")}
    environment |= {
        "SHOPSTREAM_HOME": str(settings.home),
        "SHOPSTREAM_REDIS__URL": settings.redis.url.get_secret_value(),
    }
    command = [str(Path(sys.executable).with_name("feast")), "-c", str(ROOT / "feature_repo"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_feast_apply_works_by_itself_and_ours_does_the_same(settings: Settings, tmp_path: Path) -> None:
    applied = feast(settings, "apply", cwd=tmp_path)
    assert applied.returncode == 0, applied.stderr
    assert "Could not validate" not in applied.stderr
    assert settings.feast_registry_path.is_file()
    listed = feast(settings, "feature-views", "list")
    assert {"user_clicks_v1", "user_carts_v1", "session_features_v1"} <= set(listed.stdout.split())

    ours = settings.model_copy(update={"feast": settings.feast.model_copy(update={"project": "shopstream"})})
    by_hand = _contents(open_feature_store(ours))
    apply_definitions(ours)
    assert _contents(open_feature_store(ours)) == by_hand


def test_applying_again_changes_nothing_and_several_may_at_once(settings: Settings) -> None:
    program = "import sys; from feature_repo.opening import *; from config.settings import load_settings;"
    program += "apply_definitions(load_settings({'home': sys.argv[1], 'redis': {'url': sys.argv[2]},"
    program += " 'feast': {'project': sys.argv[3]}}))"
    url = settings.redis.url.get_secret_value()
    arguments = [sys.executable, "-c", program, str(settings.home), url]
    started = [
        subprocess.Popen([*arguments, f"{settings.feast.project}_{n}"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    for n in range(2):
        project = settings.feast.model_copy(update={"project": f"{settings.feast.project}_{n}"})
        store = open_feature_store(settings.model_copy(update={"feast": project}))
        before = _contents(store)
        apply_definitions(settings.model_copy(update={"feast": project}))
        store.refresh_registry()
        assert _contents(store) == before
        assert feature_service(store).name == ON_DEMAND_VIEW


def test_the_service_answers_what_finalize_says(store: Any, states: dict[str, bytes]) -> None:
    users = ["both", "clicks", "nobody", "both"]
    as_of = [NOON_MS + 61_000, NOON_MS + 31 * 60_000, NOON_MS + 61_000, 0]
    known = {"both": states, "clicks": {CLICKS_TOPIC: states[CLICKS_TOPIC]}, "nobody": {}}
    answer = _read(store, users, as_of)
    for row, (user, instant) in enumerate(zip(users, as_of, strict=True)):
        decoded = {topic: decode(blob) for topic, blob in known[user].items()}
        expected = finalize({topic: decoded.get(topic) for topic in VIEWS}, instant)
        assert {name: answer[f"{ON_DEMAND_VIEW}__{name}"][row] for name in NAMES} == expected
        assert answer[f"{ON_DEMAND_VIEW}__state_status"][row] == "ok"
    assert answer[f"{ON_DEMAND_VIEW}__clamped"] == [False, False, False, True]


def test_no_instant_means_the_newest_event(store: Any, states: dict[str, bytes]) -> None:
    answer = _read(store, ["both", "clicks"], [None, None])
    decoded = {topic: decode(blob) for topic, blob in states.items()}
    expected = finalize(decoded, None)
    assert {name: answer[f"{ON_DEMAND_VIEW}__{name}"][0] for name in NAMES} == expected
    assert answer[f"{ON_DEMAND_VIEW}__as_of_ms"] == [NOON_MS + 60_000, NOON_MS + 9_000]


def test_a_user_without_products_has_null_in_place_of_an_empty_list(store: Any) -> None:
    answer = _read(store, ["nobody"], [NOON_MS])
    assert answer[f"{ON_DEMAND_VIEW}__last_products_24h"] == [None]


def test_a_state_that_cannot_be_read_is_told_and_not_zero(store: Any, states: dict[str, bytes]) -> None:
    junk = b"no state of any layout" + states[CLICKS_TOPIC][-18:]

    async def push() -> None:
        await OnlineSink(store).push(CLICKS_TOPIC, [("junk", junk)], SERVABLE_MS)
        await OnlineSink(store).push(CARTS_TOPIC, [("swapped", states[CLICKS_TOPIC])], SERVABLE_MS)
        await store.close()

    asyncio.run(push())
    answer = _read(store, ["junk", "both", "swapped"], [NOON_MS] * 3)
    assert answer[f"{ON_DEMAND_VIEW}__state_status"][:2] == ["unreadable: user_clicks_v1", "ok"]
    assert answer[f"{ON_DEMAND_VIEW}__state_status"][2].startswith("unreadable: ")
    assert answer[f"{ON_DEMAND_VIEW}__page_view_count_24h"] == [None, 1, None]


def test_short_names_would_confuse_the_two_states_and_are_refused(store: Any) -> None:
    with pytest.raises(Exception, match="full_feature_names=True"):
        store.get_online_features(
            [f"{ON_DEMAND_VIEW}:click_count_30m"], entity_rows=[{"user_id": "both", "as_of": NOON_MS}]
        )


def test_the_stock_store_reads_what_ours_wrote(store: Any, settings: Settings, states: dict[str, bytes]) -> None:
    from feast import FeatureStore, RepoConfig

    address = settings.redis.url.get_secret_value().removeprefix("redis://")
    host, _, database = address.partition("/")
    stock = FeatureStore(
        config=RepoConfig(
            project=settings.feast.project,
            provider="local",
            registry=store.config.registry,
            online_store={"type": "redis", "connection_string": f"{host},db={database or 0}"},
            entity_key_serialization_version=3,
        )
    )
    assert type(stock.provider.online_store).__name__ == "RedisOnlineStore"
    rows = {"user_id": ["both", "clicks", "nobody"], "as_of": [NOON_MS] * 3}
    read = [
        opened.get_online_features(feature_service(opened), entity_rows=rows, full_feature_names=True).proto
        for opened in (stock, store)
    ]
    assert read[0] == read[1]
    columns = dict(zip(read[0].metadata.feature_names.val, read[0].results, strict=True))
    clicks, carts = columns["user_clicks_v1__state"], columns["user_carts_v1__state"]
    assert [value.bytes_val for value in clicks.values] == [states[CLICKS_TOPIC], states[CLICKS_TOPIC], b""]
    assert [stamp.ToMilliseconds() for stamp in clicks.event_timestamps] == [SERVABLE_MS, SERVABLE_MS, 0]
    assert [stamp.ToMilliseconds() for stamp in carts.event_timestamps] == [SERVABLE_MS + 1, 0, 0]


def test_a_view_that_is_removed_takes_its_rows_and_its_fence_with_it(store: Any, settings: Settings) -> None:
    from feature_repo.fence import Fence, PartitionStatus

    async def fence() -> None:
        fences = FenceStore.from_settings(settings)
        for topic in VIEWS:
            await fences.advance(topic, 0, Fence("t:1", 5, PartitionStatus.LIVE, 1))
        await fences.close()

    asyncio.run(fence())
    online_store = store.provider.online_store
    view = store.get_feature_view("user_carts_v1")
    online_store.update(store.config, [view], [], [], [], partial=True)
    answer = _read(store, ["both"], [NOON_MS])
    assert answer["user_carts_v1__state"] == [None]
    assert answer["user_clicks_v1__state"] != [None]
    fences = FenceStore(online_store.connections(store.config.online_store), settings.feast.project)
    assert fences.read_blocking(CARTS_TOPIC) == {}
    assert set(fences.read_blocking(CLICKS_TOPIC)) == {0}


def test_importing_feast_leaves_metrics_in_one_process(settings: Settings) -> None:
    program = "from feature_repo import load_feast; load_feast(); import os, prometheus_client.values as v;"
    program += "print(v.ValueClass.__name__, [n for n in os.environ if n.startswith('PROMETHEUS_MULTIPROC')])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["MutexValue", "[]"]


def _read(store: Any, users: Sequence[str], as_of: Sequence[int | None]) -> dict[str, list[Any]]:
    answer: dict[str, list[Any]] = store.get_online_features(
        feature_service(store), entity_rows={"user_id": list(users), "as_of": list(as_of)}, full_feature_names=True
    ).to_dict()
    return answer


def _contents(store: Any) -> list[Any]:
    """Return what the registry says of the project; Feast's own equality leaves out the times of applying."""
    kinds = (
        store.list_entities(),
        store.list_data_sources(),
        store.list_feature_views(),
        store.list_on_demand_feature_views(),
        store.list_feature_services(),
    )
    contents = [sorted(items, key=lambda item: item.name) for items in kinds]
    assert all(contents)
    return contents
