"""The services of a stack as processes: killed, stopped and continued from outside."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psutil

from stack.embedded import SERVICES
from stack.processes import with_marker
from stack.service import Folders
from tests.faults.scenario import Arena
from tests.waiting import wait_until

GONE_DEADLINE_S: Final = 30.0


@dataclass(frozen=True)
class ServiceProcess:
    """`kafka`, `registry` or `redis` of the arena's own stack."""

    arena: Arena
    name: str

    def process(self) -> psutil.Process:
        """Return its process."""
        assert self.arena.home is not None
        assert self.arena.stack is not None, "services of a stack that others use are not harmed"
        service = next(service for service in SERVICES if service.name == self.name)
        found = with_marker(service.marker(Folders((self.arena.home / "stack").resolve())))
        assert len(found) == 1, f"{len(found)} processes of {self.name}"
        return found[0]

    def kill(self) -> None:
        """End it with SIGKILL."""
        process = self.process()
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not _runs(process), GONE_DEADLINE_S, f"{self.name} survives SIGKILL")

    def start_again(self) -> None:
        """Start what does not run, on the same ports with the same data."""
        assert self.arena.stack is not None
        assert self.arena.stack.up() == self.arena.endpoints

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it with SIGSTOP while the block runs: its sockets stay open, and nothing answers."""
        process = self.process()
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
