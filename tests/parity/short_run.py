"""A short run with everything that can differ: disorder, late and duplicate events, broken records, a killed worker."""

import itertools
import signal
from pathlib import Path
from typing import Final

from cli.worker_process import worker_process
from config.settings import Settings
from streams.observing import GroupLags, read_workers
from tests.waiting import wait_until
from tests.worker_runs import DRAIN_DEADLINE_S, START_DEADLINE_S, send, tail, traffic
from traffic.sent_log import SentLog

BROKEN_SHARE: Final = 0.02


def short_run(settings: Settings, log_path: Path, count: int) -> SentLog:
    """Send events to a worker, kill it in the midst, and let another one take over; return what was sent.

    The first worker is killed when it has applied something, and hardly committed it: the second reads it again.
    """
    log = SentLog()
    events = iter(traffic(count, broken=BROKEN_SHARE))
    with worker_process(settings, log_path) as first:
        send(settings, itertools.islice(events, count // 2), log, broken=True)

        def has_begun() -> bool:
            assert first.poll() is None, tail(log_path)
            return read_workers(settings).outcomes["applied"] > 0

        wait_until(has_begun, START_DEADLINE_S, lambda: f"the worker applies nothing: {tail(log_path)}")
        first.send_signal(signal.SIGKILL)
        first.wait()
    with worker_process(settings, log_path) as second:
        send(settings, events, log, broken=True)
        lags = GroupLags(settings)

        def is_done() -> bool:
            assert second.poll() is None, tail(log_path)
            return lags.total() == 0

        wait_until(is_done, DRAIN_DEADLINE_S, lambda: f"a lag of {lags.total()} stays: {tail(log_path)}")
    return log
