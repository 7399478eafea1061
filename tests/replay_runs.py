"""Replays of all that there is, for tests: here, and in a process that is killed."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from config.settings import Settings
from replay.plan import ReplayRequest
from replay.range_replay import RangeReplay, Running, account
from replay.targets import Into
from schemas.event import EVENT_TOPICS
from schemas.topics import describe_topics
from tests.waiting import wait_until

DEADLINE_S = 120.0


def replay(settings: Settings, into: Into, source: str = "kafka", to_topic: str = "", **running: Any) -> RangeReplay:
    """Make a replay of both topics, from the beginning to the end."""
    described = describe_topics(settings)
    topics = {name: described[name] for name in EVENT_TOPICS}
    request = ReplayRequest(source, into, "beginning", "end", tuple(topics), (), to_topic)
    return RangeReplay(settings, request, topics, Running(**running))


def finished(
    settings: Settings, into: Into, source: str = "kafka", to_topic: str = "", **running: Any
) -> dict[str, Any]:
    """Replay all that there is; return the account."""
    run = replay(settings, into, source, to_topic, **running)
    with run.begun(run.plan()) as begun:
        assert run.run(begun)
    return account(run.totals)


@contextmanager
def killed_in_the_middle(settings: Settings, into: Into, to_topic: str = "") -> Iterator[None]:
    """Run the block while a slow replay is under way that has written a checkpoint, then kill it with SIGKILL."""
    context = multiprocessing.get_context("spawn")  # neither the Kafka client nor the Delta library survives a fork
    process = context.Process(target=_run_slowly, args=(settings, into, to_topic))
    process.start()
    try:
        folder = settings.home / "replay"

        def written() -> bool:
            assert process.is_alive(), "the replay ended by itself"
            return bool(list(folder.glob("*/lane-*.checkpoint")))

        wait_until(written, DEADLINE_S, "no checkpoint was written")
        yield
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def _run_slowly(settings: Settings, into: Into, to_topic: str) -> None:
    finished(settings, into, to_topic=to_topic, save_every_s=0.2, rate=1_000.0)
