"""The how-to pages about new features and changed definitions, followed word by word on a real stack."""

import json
import os
import pickle
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from cli.demo_check import compare_features, compare_states
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from feature_repo.fence import fence_key
from feature_repo.layout import KeyTemplate, view_fields
from features.catalog import FEATURES, views_of
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, EVENT_TOPICS, Event
from sinks.lake_reads import offsets
from sinks.tables import RAW_EVENTS
from streams.observing import read_workers
from tests.pages import Follower, copied_project
from tests.waiting import wait_until
from tests.worker_runs import START_DEADLINE_S, send, tail, wait_committed, wait_ready
from traffic.sent_log import SentLog
from traffic.timed import Mark, TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "how-to"
MINUTE = 60_000
USERS = 12
BUYERS = {f"u{n}" for n in range(0, USERS, 3)}
CART_VALUES = {f"cart_value_minor_{window}" for window in ("30m", "1h", "24h")} | {"session_cart_value_minor"}


def shopping(round_number: int, now_ms: int) -> Iterator[TimedEvent]:
    """Yield what some users do within five minutes; every third of them buys. One event is late, one comes twice."""
    begin_ms = now_ms - (40 - 20 * round_number) * MINUTE
    for n in range(USERS):
        user_id = f"u{n}"
        bought = ("purchase",) if user_id in BUYERS else ()
        for place, kind in enumerate(("page_view", "click", "page_view", "add", "add", "remove", *bought, "search")):
            is_cart = kind in {"add", "remove", "purchase"}
            late_ms = 30 * MINUTE if (n, place) == (1, 6) else 0
            event = Event(
                event_id=f"{round_number}-{n}-{place}",
                kind=kind,
                user_id=user_id,
                event_time_ms=begin_ms + place * 40_000 - late_ms,
                product_id=f"p{(n + place) % 5}" if kind != "search" else None,
                category_id=f"c{n % 3}",
                query="shoes" if kind == "search" else None,
                quantity=place if is_cart else None,
                unit_price_minor=250 if is_cart else None,
                currency="EUR" if is_cart else None,
            )
            timed = TimedEvent(0, CARTS_TOPIC if is_cart else CLICKS_TOPIC, event, Mark.LATE if late_ms else Mark.PLAIN)
            yield from (timed, timed) if (n, place) == (2, 1) else (timed,)


def checked(root: Path, settings: Settings, log: SentLog, tmp_path: Path) -> dict[str, Any]:
    """Have a checkout compare its features with its own oracle."""
    sent = tmp_path / "sent.pickle"
    sent.write_bytes(pickle.dumps(log.by_user()))
    environment = {**os.environ, **as_environment(settings), "PYTHONPATH": "."}
    command = [".venv/bin/python", "-m", "tests.page_checks", str(sent)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def is_up(process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    """Wait until a worker of any version was given its partitions."""

    def started() -> bool:
        assert process.poll() is None, tail(log_path)
        return "started at {'" in log_path.read_text(errors="replace")

    wait_until(started, START_DEADLINE_S, lambda: f"it was given no partitions: {tail(log_path)}")


@contextmanager
def followed(follower: Follower, page: str) -> Iterator[Follower]:
    """Follow a page; what it has started ends with the block."""
    try:
        follower.follow(PAGES / page)
        yield follower
    finally:
        for process in follower.running:
            stop_worker(process)


def test_add_a_feature(settings: Settings, tmp_path: Path) -> None:
    log, now_ms = SentLog(), time.time_ns() // 1_000_000
    send(settings, shopping(0, now_ms), log)
    old_log = tmp_path / "old.log"
    with worker_process(settings, old_log) as process:  # the past, by code that does not know the feature
        root = copied_project(ROOT, tmp_path / "shopstream")
        wait_ready(settings, process, old_log)
        wait_committed(settings, old_log)
        assert stop_worker(process) == 0, tail(old_log)
    follower = Follower(
        root, as_environment(settings), skipped=("make check test", ".venv/bin/shopstream demo"), wait_up=is_up
    )
    with followed(follower, "add-a-feature.md"):
        send(settings, shopping(1, now_ms), log)
        wait_committed(settings, tmp_path / "shopstream" / "background-0.log")
        told = checked(root, settings, log, tmp_path)
    assert set(told["features"]) - {feature.name for feature in FEATURES} == {"purchase_rate_30m", "purchase_rate_24h"}
    past = USERS * 7 + len(BUYERS) + 1
    assert (told["history_rows"], told["history"]) == (past, [])
    assert told["history_missing"] == past  # what was sent after the backfill
    assert (told["users"], told["live"], told["states_differing"]) == (USERS, [], 0)
    shown = follower.outputs[".venv/bin/shopstream features get u1"]
    assert "purchase_rate" in shown


def test_change_a_definition(settings: Settings, tmp_path: Path) -> None:
    log, now_ms = SentLog(), time.time_ns() // 1_000_000
    send(settings, shopping(0, now_ms), log)
    (tmp_path / "shopstream").symlink_to(ROOT)
    old_log = tmp_path / "old.log"
    states: list[dict[bytes, bytes]] = []
    with worker_process(settings, old_log) as old:
        root = copied_project(ROOT, tmp_path / "shopstream-v2")
        wait_ready(settings, old, old_log)
        wait_committed(settings, old_log)
        new = settings.model_copy(
            update={"worker": settings.worker.model_copy(update={"group_id": f"{settings.worker.group_id}-v2"})}
        )

        def before(command: str) -> None:
            if command.endswith("worker &"):
                states.append(stored(settings, 1))
            elif command.startswith(".venv/bin/shopstream features retire"):
                states.append(stored(settings, 1))
                send(settings, shopping(1, now_ms), log)
                wait_committed(settings, old_log)
                wait_committed(new, root / "background-0.log")
                beside(settings, log)
                assert stop_worker(old) == 0, tail(old_log)

        follower = Follower(
            root,
            as_environment(settings),
            skipped=(
                "git worktree add ../shopstream-v2",
                "cd ../shopstream-v2",
                "make setup",
                "make check test",
                ".venv/bin/python -m pytest -q tests/property",
            ),
            wait_up=is_up,
            before=before,
        )
        with followed(follower, "change-a-definition.md"):
            told = checked(root, settings, log, tmp_path)
    assert "definition version 2 begins at offset" in (root / "background-0.log").read_text()
    # version 1 never noticed
    assert states[0] == states[1] != {}
    # version 2 is what its own oracle says, in the past and live
    past = USERS * 7 + len(BUYERS) + 1
    assert (told["definition_version"], told["history_rows"], told["history"]) == (2, past, [])
    assert (told["users"], told["live"], told["states_differing"]) == (USERS, [], 0)
    compared = follower.outputs[".venv/bin/shopstream features compare --with 1"]
    assert all(name in compared for name in CART_VALUES)
    assert f"after {past} events of {USERS} users" in compared
    assert stored(settings, 1) == {}
    assert len(stored(settings, 2)) == 2 * USERS


def beside(settings: Settings, log: SentLog) -> None:
    """Assert that version 1 is what it always was, while version 2 runs."""
    assert read_workers(settings).rebuilding == 0
    assert compare_features(settings, log.by_user(), USERS) == (USERS, [])
    assert compare_states(settings).differing == 0
    held = offsets(settings.lake_path, RAW_EVENTS)
    assert all(len(found) == len(set(found)) for found in held.values())
    assert sum(map(len, held.values())) == log.acknowledged_count


def stored(settings: Settings, version: int) -> dict[bytes, bytes]:
    """Return the states of a definition version as Redis holds them, by key and field."""
    template = KeyTemplate.of(settings.feast.project)
    fields = [view_fields(view.view).state for view in views_of(version).values()]
    found: dict[bytes, bytes] = {}
    redis: Any = Redis.from_url(settings.redis.url.get_secret_value())
    for key in redis.scan_iter(template.pattern):
        values = redis.hmget(key, fields)
        found |= {key + field: value for field, value in zip(fields, values, strict=True) if value}
    if not found:
        assert not any(redis.exists(fence_key(settings.feast.project, topic, version)) for topic in EVENT_TOPICS)
    redis.close()
    return found
