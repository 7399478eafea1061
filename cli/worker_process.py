"""A worker as a child process, for the demo and for tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.settings import Settings, as_environment

STOP_TIMEOUT_S = 45.0


@contextmanager
def worker_process(settings: Settings, log_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `shopstream worker` with these settings; at the end it is stopped with SIGTERM if it still runs.

    It has a session of its own, so that Ctrl-C in the terminal does not reach it before its parent has decided.
    """
    command = [sys.executable, "-m", "cli.main", "worker"]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        environment = {**os.environ, **as_environment(settings)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            yield process
        finally:
            stop_worker(process)


def stop_worker(process: "subprocess.Popen[bytes]") -> int:
    """Stop a worker with SIGTERM, or SIGKILL if that takes too long; return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode
