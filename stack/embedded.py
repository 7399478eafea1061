"""The embedded stack: Kafka, the schema registry and Redis of one home folder."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stack.artifacts import Installed, install
from stack.errors import PortInUseError, ServiceStartError, StackError
from stack.files import write_atomically
from stack.interrupts import Interrupts
from stack.kafka import Kafka
from stack.ports import Ports, choose, is_free, verify
from stack.ports import load as load_ports
from stack.ports import save as save_ports
from stack.processes import Identity, exit_code, load_identity, start, stop, tail, with_marker
from stack.redis import Redis
from stack.registry import Registry
from stack.service import NAMES, Folders, Service, only
from stack.status import StackStatus, external, look_at

SERVICES: Final[tuple[Service, ...]] = (Registry(), Kafka(), Redis())  # the slowest to start comes first
_POLL_S = 0.03
_QUIET_S = 2.0
_ADOPT_S = 5.0
_ANSWER_S = 2.0
_ATTEMPTS = 3
_FREE_BYTES_MIN = 200_000_000
_LOCK_NAME = "lock"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Endpoints:
    """Addresses of the services that run; empty for one that the user provides.

    Attributes:
        kafka: host:port.
        registry: base URL of the Confluent-compatible API.
        redis: URL with the database number.
    """

    kafka: str
    registry: str
    redis: str


class EmbeddedStack:
    """Starts and stops the services under `<home>/stack`; all state is in files, so any process may do either.

    Args:
        home: folder of the stack's data, logs and pids.
        cache_dir: folder of the downloaded files; shared by all stacks.
        services: those to run, of `kafka`, `registry`, `redis`; the others are the user's own.
    """

    def __init__(self, home: Path, cache_dir: Path, services: frozenset[str] = frozenset(NAMES)) -> None:
        self._folders = Folders((home.expanduser() / "stack").resolve())
        self._cache_dir = cache_dir.expanduser()
        self._wanted = tuple(service for service in SERVICES if service.name in services)

    def up(self, ports: Ports | None = None, progress: Progress | None = None, *, then_exit: bool = False) -> Endpoints:
        """Start what does not run, mend what is half-dead, and return the addresses. Harmless when all is well.

        Args:
            ports: ports that must be used; 0 (or None) for those of the last time or free ones.
            progress: is told in a line what takes longer than two seconds.
            then_exit: this process only prints the result and ends: a signal that comes after the last moment at which
                the start could be undone is ignored, so that the exit code tells whether the stack runs.

        Raises:
            PortInUseError: a port that was asked for belongs to another process.
            ArtifactUnavailableError, ChecksumMismatchError: the files cannot be had.
            ServiceStartError: a service does not come up; everything started here has been stopped.
            StackInterruptedError: SIGINT, SIGTERM or SIGHUP came; everything started here has been stopped.
        """
        tell, asked = progress or _silent, ports or Ports()
        with Interrupts() as interrupts, self._locked(tell, interrupts.check):
            healthy = self._mend(asked, interrupts.check)
            missing = [service for service in self._wanted if service.name not in healthy]
            installed: Installed | None = None
            if any(service.needs_artifacts for service in missing):
                installed = install(self._cache_dir, tell, interrupts.check)
            endpoints: Endpoints | None = None
            for attempts_left in reversed(range(_ATTEMPTS)):
                try:
                    endpoints = self._start_all(missing, self._choose(asked, healthy), installed, interrupts, tell)
                    break
                except PortInUseError:  # another process took a free port in the instant before ours did
                    if not attempts_left:
                        raise
            assert endpoints is not None
            if then_exit:
                interrupts.ignore_from_now()
            return endpoints

    def down(self, progress: Progress | None = None) -> None:
        """Stop every process of this stack; its data stay.

        Raises:
            ServiceStopError: a process survives SIGKILL.
        """
        with self._locked(progress or _silent, _silent):
            self._stop(SERVICES)

    def reset(self, progress: Progress | None = None) -> None:
        """Stop everything and delete the stack's folder: topics, schemas, online store, logs.

        Raises:
            StackError: the folder cannot be deleted.
        """
        with self._locked(progress or _silent, _silent):
            self._stop(SERVICES)
            try:
                for entry in self._folders.root.iterdir():
                    if entry.name != _LOCK_NAME:
                        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            except OSError as error:
                raise StackError(f"{self._folders.root} cannot be deleted: {error.strerror or error}.") from error

    def status(self) -> StackStatus:
        """Look at every service and ask each one that runs."""
        ordered = sorted(SERVICES, key=lambda service: NAMES.index(service.name))
        return StackStatus(
            tuple(
                look_at(service, self._folders) if service in self._wanted else external(service) for service in ordered
            )
        )

    @property
    def folder(self) -> Path:
        """Folder of the stack's data, logs and pids."""
        return self._folders.root

    @property
    def endpoints_file(self) -> Path:
        """File in which the settings of every other process find the addresses."""
        return self._folders.root / "endpoints.json"

    def _mend(self, asked: Ports, check: Callable[[], None]) -> dict[str, int]:
        """Stop what runs but does not answer, or not on the port that is asked for.

        Returns:
            the port of each service that runs well and stays.
        """
        _verify_disk(self._folders.root)
        noted = [self._identity(service) for service in SERVICES]
        verify(asked, {identity.port for identity in noted if identity is not None and identity.process() is not None})
        healthy: dict[str, int] = {}
        for service in self._wanted:
            check()
            port = self._healthy_port(service, check)
            if port is not None and getattr(asked, service.name) in {0, port}:
                healthy[service.name] = port
            else:
                self._stop([service])
        return healthy

    def _identity(self, service: Service) -> Identity | None:
        return load_identity(self._folders.identity(service.name), service.marker(self._folders))

    def _choose(self, asked: Ports, healthy: dict[str, int]) -> Ports:
        remembered = load_ports(self._folders.root / "ports.json")
        controller = remembered.controller if "kafka" in healthy else 0
        return choose(asked, remembered, Ports(**healthy, controller=controller))

    def _healthy_port(self, service: Service, check: Callable[[], None]) -> int | None:
        """Return the port of the service if its process is ours and answers, giving one that still starts some time."""
        identity = self._identity(service)
        if identity is None or identity.process() is None:
            return None
        deadline = time.monotonic() + _ADOPT_S
        ports = only(service, identity.port)
        while service.problem(ports, _ANSWER_S) is not None:
            if time.monotonic() > deadline or identity.process() is None:
                return None
            check()
            time.sleep(_POLL_S)
        return identity.port

    def _start_all(
        self,
        missing: list[Service],
        ports: Ports,
        installed: Installed | None,
        interrupts: Interrupts,
        tell: Progress,
    ) -> Endpoints:
        """Start the missing services and publish the addresses of all, or leave none of the missing running."""
        with ExitStack() as undo:
            undo.callback(self._stop, missing)
            try:
                for folder in (self._folders.logs, self._folders.temporary):
                    folder.mkdir(parents=True, exist_ok=True)
                started: list[tuple[Service, int]] = []
                for service in missing:
                    interrupts.check()
                    service.prepare(self._folders, ports, installed)
                    launch = service.launch(self._folders, ports, installed)
                    port = getattr(ports, service.name)
                    started.append((service, start(launch, self._folders.identity(service.name), port).pid))
            except OSError as error:
                raise StackError(
                    f"The stack's folder {self._folders.root} cannot be used: {error.strerror or error}.",
                    hint="Free some disk space, or choose another folder with --home.",
                ) from error
            self._await(started, ports, interrupts, tell)
            for service in missing:
                interrupts.check()
                service.settle(ports)
            endpoints = self._publish(ports)
            interrupts.check()
            undo.pop_all()
        return endpoints

    def _await(self, started: list[tuple[Service, int]], ports: Ports, interrupts: Interrupts, tell: Progress) -> None:
        """Wait until each service answers well, or raise."""
        began = told = time.monotonic()
        waiting = list(started)
        while waiting:
            for service, pid in list(waiting):
                interrupts.check()
                code = exit_code(pid)
                if code is not None:
                    raise self._ended(service, ports, code)
                problem = service.problem(ports, _ANSWER_S)
                if problem is None:
                    waiting.remove((service, pid))
                elif time.monotonic() - began > service.start_timeout_s:
                    raise ServiceStartError(
                        f"{_capital(service.title)} does not answer after {service.start_timeout_s:.0f} s: {problem}.",
                        hint=f"See {self._folders.logs / f'{service.name}.log'}.",
                    )
            if waiting and time.monotonic() - told > _QUIET_S:
                told = time.monotonic()
                titles = ", ".join(service.title for service, _ in waiting)
                tell(f"Starting {titles} ({told - began:.0f} s)")
            time.sleep(_POLL_S)

    def _ended(self, service: Service, ports: Ports, code: int) -> StackError:
        port = getattr(ports, service.name)
        if not is_free(port) or (service.name == "kafka" and not is_free(ports.controller)):
            return PortInUseError(
                f"{_capital(service.title)} could not listen on port {port}: another process has just taken it.",
                hint="Run the command again.",
            )
        log = self._folders.logs / f"{service.name}.log"
        last = (tail(log).splitlines() or ["its log is empty"])[-1].strip()
        return ServiceStartError(
            f"{_capital(service.title)} ended with code {code} while it was started; its last words: {last}",
            hint=f"See {log}; `shopstream doctor` checks disk and ports.",
        )

    def _publish(self, ports: Ports) -> Endpoints:
        addresses = {service.name: service.address(ports) for service in self._wanted}
        save_ports(self._folders.root / "ports.json", ports)
        write_atomically(self.endpoints_file, json.dumps(addresses, indent=2) + "\n")
        return Endpoints(**{name: addresses.get(name, "") for name in NAMES})

    def _stop(self, services: list[Service] | tuple[Service, ...]) -> None:
        """Stop each service's noted process, and any other that works on its data."""
        if not services:
            return
        self.endpoints_file.unlink(missing_ok=True)
        noted = (identity.process() for service in services if (identity := self._identity(service)) is not None)
        found = [process for service in services for process in with_marker(service.marker(self._folders))]
        processes = {process for process in (*noted, *found) if process is not None}
        stop(processes, max(service.stop_timeout_s for service in services))
        for service in services:
            self._folders.identity(service.name).unlink(missing_ok=True)

    @contextmanager
    def _locked(self, tell: Progress, check: Callable[[], None]) -> Iterator[None]:
        """Hold the stack's lock file, so that two commands at once take turns."""
        try:
            self._folders.root.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folders.root / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StackError(
                f"The stack's folder {self._folders.root} cannot be used: {error.strerror or error}.",
                hint="Choose another folder with --home.",
            ) from error
        try:
            told = False
            while not _try_lock(lock):
                if not told:
                    tell("Another command is starting or stopping this stack; waiting for it")
                    told = True
                check()
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _verify_disk(folder: Path) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < _FREE_BYTES_MIN:
        raise StackError(
            f"Only {free_bytes / 1e6:.0f} MB are free on the disk of {folder}; the stack needs "
            f"{_FREE_BYTES_MIN / 1e6:.0f} MB.",
            hint="Free some disk space, or choose another folder with --home.",
        )


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _silent(*_line: str) -> None:
    """Tell nobody, check nothing."""
