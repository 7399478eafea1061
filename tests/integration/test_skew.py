"""Answers of a real reader of what a real worker pushes: a clean run has no skew, and planted faults are named."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from redis import Redis
from typer.testing import CliRunner

from cli.main import app
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from feature_repo import on_demand
from feature_repo.layout import KeyTemplate
from features.finalize import finalize
from features.state import TopicState
from schemas.event import CARTS_TOPIC
from schemas.loading import own_schema
from serving.reader import FeatureReader
from tests.worker_runs import send, tail, wait_committed, wait_ready
from traffic.pacing import Pacer
from traffic.sending import open_sender
from traffic.sent_log import SentLog
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

MINUTE_MS = 60_000
LIVE_RATE = 200.0
USERS_PER_READ = 50


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def clean_traffic(count: int, *, start_ms: int, rate: float, seed: int) -> Iterable[TimedEvent]:
    """Return events of which none comes late; some come twice."""
    config = SimulatorConfig(
        seed=seed, start_ms=start_ms, rate=rate, users=300, late_share=0.0, disorder_share=0.0, duplicate_share=0.02
    )
    return Simulator(config, count).events()


def send_live(settings: Settings, count: int, log: SentLog) -> None:
    with open_sender(settings, log, broken=False) as sender:
        events = clean_traffic(count, start_ms=now_ms(), rate=LIVE_RATE, seed=2)
        sender.run(events, Pacer(clock=time.monotonic, sleep=time.sleep, speed=1.0))


def read_all(settings: Settings, users: Iterable[str], until: Callable[[], bool] = lambda: True) -> int:
    """Read users as a model does, at least once and until then; return when that began."""
    began_ms = now_ms()
    reader = FeatureReader.from_settings(settings)
    chosen = sorted(users)
    is_enough = False
    while not is_enough:
        is_enough = until()
        for first in range(0, len(chosen), USERS_PER_READ):
            reader.read(chosen[first : first + USERS_PER_READ], model="ranker-1")
    reader.close()  # what is kept is written
    return began_ms


def invoke(settings: Settings, *arguments: str, code: int) -> dict[str, Any]:
    command = [*arguments, "--json"]
    result = CliRunner().invoke(app, command, env=as_environment(settings), catch_exceptions=False)
    assert result.exit_code == code, result.stdout + result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class PlantedBug:
    """Counts one click too many in a few of a hundred answers, by the user's newest event."""

    def __init__(self) -> None:
        self.planted = 0

    def __call__(self, states: Mapping[str, TopicState | None], as_of_ms: int | None) -> dict[str, Any]:
        values: dict[str, Any] = dict(finalize(states, as_of_ms))
        newest_ms = values["newest_event_ms"]
        if newest_ms is not None and crc32(str(newest_ms).encode()) % 20 == 0:
            self.planted += 1
            values["click_count_24h"] += 1
        return values


def restore(settings: Settings, dumps: Mapping[bytes, bytes]) -> None:
    with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
        for key, dump in dumps.items():
            redis.restore(key, 0, dump, replace=True)


def dumps_of(settings: Settings, users: Iterable[str]) -> dict[bytes, bytes]:
    keys = [KeyTemplate.of(settings.feast.project).key(user) for user in users]
    with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
        found = {key: redis.dump(key) for key in keys}
    return {key: dump for key, dump in found.items() if isinstance(dump, bytes)}


def test_what_was_served_is_audited(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a loaded machine may take seconds for what takes milliseconds
    serving = settings.serving.model_copy(update={"served_share": 1.0, "push_allowance_ms": 15_000})
    worker = settings.worker.model_copy(update={"flush_interval_ms": 200})
    settings = settings.model_copy(update={"serving": serving, "worker": worker})
    log_path, log = tmp_path / "worker.log", SentLog()
    send(settings, clean_traffic(2_000, start_ms=now_ms() - 10 * MINUTE_MS, rate=100.0, seed=1), log)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        wait_committed(settings, log_path)
        users = list(log.by_user())
        older = dumps_of(settings, users[:20])
        first_ms = read_all(settings, users)  # events of minutes ago: each must be in its answer

        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send_live, settings, 300, log)
            read_all(settings, users, sending.done)  # events of this very moment
            sending.result()
        wait_committed(settings, log_path)
        clean = invoke(settings, "skew", "--from", str(first_ms), code=0)
        assert (clean["mismatched"], clean["pending"], clean["uncovered"]) == (0, 0, 0)
        assert clean["right"] >= 2 * len(users)

        bug = PlantedBug()
        monkeypatch.setattr(on_demand, "finalize", bug)
        planted_ms = read_all(settings, log.by_user())
        monkeypatch.undo()
        found = invoke(settings, "skew", "--from", str(planted_ms), code=3)
        assert found["by_feature"] == {"click_count_24h": {"unknown": bug.planted}}
        assert 0 < bug.planted < found["answers"] / 5
        assert found["examples"][0]["model"] == "ranker-1"

        send(settings, clean_traffic(1_000, start_ms=now_ms() - 5 * MINUTE_MS, rate=100.0, seed=1), log)
        wait_committed(settings, log_path)
        restore(settings, older)
        stale_ms = read_all(settings, users[:20])
        strict = settings.model_copy(update={"serving": serving.model_copy(update={"push_allowance_ms": 0})})
        stale = invoke(strict, "skew", "--from", str(stale_ms), code=3)  # all was committed before it was read
        assert {cause for cause, count in stale["by_cause"].items() if count} == {"lost or stale push"}
        assert stop_worker(process) == 0, tail(log_path)

    metrics = (settings.home / "metrics" / "skew.prom").read_text()
    assert 'cause="lost or stale push"' in metrics
    rehearse(settings, tmp_path)


def rehearse(settings: Settings, folder: Path) -> None:
    """Rehearse a harmless schema and a wrong one on what the worker has recorded."""
    schema = json.loads(own_schema(CARTS_TOPIC))
    harmless, wrong = folder / "harmless.avsc", folder / "wrong.avsc"
    schema["fields"].append({"name": "coupon", "type": ["null", "string"], "default": None})
    harmless.write_text(json.dumps(schema))
    passed = invoke(settings, "schema", "rehearse", str(harmless), code=0)
    assert (passed["check"]["compatible"], passed["features_changed"]) == (True, {})
    assert passed["events"] > 0

    price = next(part for part in schema["fields"] if part["name"] == "unit_price_minor")
    price.update(name="unit_price", aliases=["unit_price_minor"], doc="Price of one piece in whole units.")
    wrong.write_text(json.dumps(schema))
    caught = invoke(settings, "schema", "rehearse", str(wrong), code=3)
    assert caught["check"]["compatible"]
    assert set(caught["features_changed"]) <= {
        "cart_value_minor_30m",
        "cart_value_minor_1h",
        "cart_value_minor_24h",
        "purchase_value_minor_24h",
        "session_cart_value_minor",
    }
    assert caught["features_changed"]["purchase_value_minor_24h"] > 0
