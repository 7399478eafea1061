"""Starting, killing and stopping workers of a host, from the side of a scenario."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from config.settings import Settings, as_environment
from tests.faults.crash_plan import CrashPlan
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
END_DEADLINE_S: Final = 60.0
KILLED: Final = -signal.SIGKILL


class WorkerHost:
    """A running host. One thread may use it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._ended: dict[int, int] = {}

    def start(
        self,
        settings: Settings,
        log: Path,
        *,
        crash: CrashPlan | None = None,
        file_bytes_max: int | None = None,
        is_planted: bool = False,
    ) -> "HostedWorker":
        """Start a worker.

        Args:
            settings: all that it knows; variables of this process are not passed on.
            log: where its output is appended.
            crash: where it kills itself.
            file_bytes_max: a write beyond this size of a file fails, as if the disk were full.
            is_planted: its decoder dies of the records of `tests.planted_records`.
        """
        answer = self._ask(
            {
                "do": "start",
                "environment": as_environment(settings),
                "log": str(log.absolute()),
                "crash": None if crash is None else asdict(crash),
                "file_bytes_max": file_bytes_max,
                "is_planted": is_planted,
            }
        )
        self._ended.pop(answer["pid"], None)  # the system uses numbers again
        return HostedWorker(self, answer["pid"], log)

    def exit_code(self, pid: int) -> int | None:
        """Tell how a worker has ended, negative for a signal; None while it runs."""
        if pid not in self._ended:
            self._ended = {int(found): code for found, code in self._ask({"do": "poll"})["ended"].items()}
        return self._ended.get(pid)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the host of the workers has ended"
        return json.loads(line)  # type: ignore[no-any-return]


@dataclass
class HostedWorker:
    """One worker process."""

    host: WorkerHost
    pid: int
    log: Path
    peak_rss_bytes: int = field(default=0)

    def exit_code(self) -> int | None:
        """Tell how it has ended, negative for a signal; None while it runs."""
        return self.host.exit_code(self.pid)

    @property
    def runs(self) -> bool:
        """Tell whether it has not ended."""
        return self.exit_code() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; harmless when it has ended."""
        if self.runs:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.ended()

    def stop(self) -> int:
        """End it with SIGTERM; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self, deadline_s: float = END_DEADLINE_S) -> int:
        """Wait until it has ended, and return its exit code."""
        wait_until(lambda: not self.runs, deadline_s, lambda: f"the worker goes on: {self.tail()}")
        code = self.exit_code()
        assert code is not None
        return code

    def records(self) -> Counter[str]:
        """Return what it has read in all, by outcome, as it said at its end; it must not have been killed."""
        return Counter(json.loads(self.log.with_suffix(".json").read_text()))

    @property
    def starts(self) -> int:
        """Return how often it was given partitions."""
        return self.log.read_text(errors="replace").count("started at ") if self.log.exists() else 0

    @property
    def is_stopped(self) -> bool:
        """Tell whether it was stopped by SIGSTOP and not continued."""
        return self.runs and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED

    def sample_rss(self) -> int:
        """Return its resident memory in bytes, and remember the peak."""
        try:
            found = psutil.Process(self.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return 0
        self.peak_rss_bytes = max(self.peak_rss_bytes, found)
        return int(found)

    def tail(self, characters: int = 3_000) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else "no log"


@contextmanager
def worker_host(log: Path) -> Iterator[WorkerHost]:
    """Run a host; with the block its workers end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOPSTREAM_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker_host"],
            cwd=ROOT,
            env={**environment, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), f"the host of the workers does not start: {log.read_text()[-3_000:]}"
        yield WorkerHost(process)
    finally:
        process.communicate()
