"""The embedded stack: Kafka, the schema registry and Redis of one home folder."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from stack.artifacts import Installed, install
from stack.errors import PortInUseError, ServiceStartError, StackError
from stack.files import write_atomically
from stack.interrupts import Interrupts
from stack.kafka import Kafka
from stack.ports import Ports, choose, is_free
from stack.ports import load as load_ports
from stack.ports import save as save_ports
from stack.processes import exit_code, load_identity, rss_bytes, start, stop, tail, with_marker
from stack.redis import Redis
from stack.registry import Registry
from stack.service import NAMES, Folders, Service

SERVICES: Final[tuple[Service, ...]] = (Registry(), Kafka(), Redis())  # the slowest to start comes first
_POLL_S = 0.03
_QUIET_S = 2.0
_ADOPT_S = 5.0
_ANSWER_S = 2.0
_ATTEMPTS = 3

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


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now.

    Attributes:
        state: `running`, `unhealthy` (a process, but no good answer), `stopped`, or `external` (the user's own).
        detail: what is wrong; empty if nothing.
        rss_bytes: resident memory of its process.
    """

    name: str
    state: str
    pid: int | None
    port: int | None
    rss_bytes: int
    address: str
    detail: str
    log: str


@dataclass(frozen=True)
class StackStatus:
    """All services as they are now."""

    services: tuple[ServiceStatus, ...]

    @property
    def rss_bytes(self) -> int:
        """Resident memory of all of them."""
        return sum(service.rss_bytes for service in self.services)

    @property
    def running(self) -> bool:
        """Whether every service that is not the user's own runs and answers."""
        return all(service.state in {"running", "external"} for service in self.services)


class EmbeddedStack:
    """Starts and stops the services under `<home>/stack`; all state is in files, so any process may do either.

    Args:
        home: folder of the stack's data, logs and pids.
        cache_dir: folder of the downloaded files; shared by all stacks.
        services: those to run, of `kafka`, `registry`, `redis`; the others are the user's own.
    """

    def __init__(self, home: Path, cache_dir: Path, services: frozenset[str] = frozenset(NAMES)) -> None:
        self._folders = Folders((home.expanduser() / "stack").absolute())
        self._cache_dir = cache_dir.expanduser()
        self._wanted = tuple(service for service in SERVICES if service.name in services)

    def up(self, ports: Ports | None = None, progress: Progress | None = None) -> Endpoints:
        """Start what does not run, mend what is half-dead, and return the addresses. Harmless when all is well.

        Args:
            ports: ports that must be used; 0 (or None) for those of the last time or free ones.
            progress: is told in a line what takes longer than two seconds.

        Raises:
            PortInUseError: a port that was asked for belongs to another process.
            ArtifactUnavailableError, ChecksumMismatchError: the files cannot be had.
            ServiceStartError: a service does not come up; everything started here has been stopped.
            StackInterruptedError: SIGINT, SIGTERM or SIGHUP came; everything started here has been stopped.
        """
        tell = progress or _silent
        with self._locked(tell):
            installed: Installed | None = None
            for attempt in range(1, _ATTEMPTS + 1):
                chosen, missing = self._plan(ports or Ports())
                if any(service.needs_artifacts for service in missing) and installed is None:
                    installed = install(self._cache_dir, tell)
                    chosen, missing = self._plan(ports or Ports())  # a download takes minutes: look again
                try:
                    self._start_all(missing, chosen, installed, tell)
                    break
                except PortInUseError:  # another process took a free port in the instant before ours did
                    if attempt == _ATTEMPTS:
                        raise
            return self._publish(chosen)

    def down(self, progress: Progress | None = None) -> None:
        """Stop every process of this stack; its data stay.

        Raises:
            ServiceStopError: a process survives SIGKILL.
        """
        with self._locked(progress or _silent):
            self._stop(SERVICES)

    def reset(self, progress: Progress | None = None) -> None:
        """Stop everything and delete the stack's folder: topics, schemas, online store, logs.

        Raises:
            StackError: the folder cannot be deleted.
        """
        with self._locked(progress or _silent):
            self._stop(SERVICES)
            try:
                for entry in self._folders.root.iterdir():
                    if entry.name != _LOCK_NAME:
                        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            except OSError as error:
                raise StackError(f"{self._folders.root} cannot be deleted: {error.strerror or error}.") from error

    def status(self) -> StackStatus:
        """Look at every service and ask each one that runs."""
        return StackStatus(tuple(self._status_of(service) for service in sorted(SERVICES, key=_order)))

    @property
    def endpoints_file(self) -> Path:
        """File in which the settings of every other process find the addresses."""
        return self._folders.root / "endpoints.json"

    def _plan(self, asked: Ports) -> tuple[Ports, list[Service]]:
        """Find out what runs well, stop what does not, and choose the ports.

        Returns:
            the ports, and the services to be started on them.
        """
        healthy: dict[str, int] = {}
        for service in self._wanted:
            port = self._healthy_port(service)
            if port is not None and getattr(asked, service.name) in {0, port}:
                healthy[service.name] = port
            else:
                self._stop([service])
        remembered = load_ports(self._folders.root / "ports.json")
        running = Ports(**healthy, controller=remembered.controller if "kafka" in healthy else 0)
        chosen = choose(asked, remembered, running)
        return chosen, [service for service in self._wanted if service.name not in healthy]

    def _healthy_port(self, service: Service) -> int | None:
        """Return the port of the service if its process is ours and answers, giving one that still starts some time."""
        identity = load_identity(self._folders.identity(service.name))
        if identity is None or identity.marker != service.marker(self._folders) or identity.process() is None:
            return None
        deadline = time.monotonic() + _ADOPT_S
        ports = _only(service, identity.port)
        while service.problem(ports, _ANSWER_S) is not None:
            if time.monotonic() > deadline or identity.process() is None:
                return None
            time.sleep(_POLL_S)
        return identity.port

    def _start_all(self, missing: list[Service], ports: Ports, installed: Installed | None, tell: Progress) -> None:
        with Interrupts() as interrupts, ExitStack() as undo:
            undo.callback(self._stop, missing)
            self.endpoints_file.unlink(missing_ok=True)
            for folder in (self._folders.logs, self._folders.temporary):
                folder.mkdir(parents=True, exist_ok=True)
            started: list[tuple[Service, int]] = []
            for service in missing:
                interrupts.check()
                service.prepare(self._folders, ports, installed)
                interrupts.check()
                launch = service.launch(self._folders, ports, installed)
                port = getattr(ports, service.name)
                started.append((service, start(launch, self._folders.identity(service.name), port).pid))
            self._await(started, ports, interrupts, tell)
            for service in missing:
                interrupts.check()
                service.settle(ports)
            interrupts.check()
            undo.pop_all()

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
        if services:
            self.endpoints_file.unlink(missing_ok=True)
        processes = [process for service in services for process in self._processes(service)]
        stop(processes, max((service.stop_timeout_s for service in services), default=0))
        for service in services:
            self._folders.identity(service.name).unlink(missing_ok=True)

    def _processes(self, service: Service) -> list[psutil.Process]:
        """Find the processes of a service: the noted one, and any that has its marker (its pid file may be lost)."""
        return with_marker(service.marker(self._folders))

    def _status_of(self, service: Service) -> ServiceStatus:
        log = str(self._folders.logs / f"{service.name}.log")
        blank = ServiceStatus(service.name, "stopped", None, None, 0, "", "", log)
        if service not in self._wanted:
            return replace(blank, state="external", log="")
        identity = load_identity(self._folders.identity(service.name))
        process = identity.process() if identity else None
        if identity is None or process is None:
            strays = self._processes(service)
            if strays:
                detail = "runs, but its pid file is lost; `shopstream stack up` mends it"
                return replace(
                    blank, state="unhealthy", pid=strays[0].pid, rss_bytes=rss_bytes(strays[0]), detail=detail
                )
            return replace(
                blank, detail="" if identity is None else "its process is gone; `shopstream stack up` mends it"
            )
        ports = _only(service, identity.port)
        problem = service.problem(ports, _ANSWER_S)
        return ServiceStatus(
            name=service.name,
            state="running" if problem is None else "unhealthy",
            pid=identity.pid,
            port=identity.port,
            rss_bytes=rss_bytes(process),
            address=service.address(ports),
            detail=problem or "",
            log=log,
        )

    @contextmanager
    def _locked(self, tell: Progress) -> Iterator[None]:
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
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell("Another command is starting or stopping this stack; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


_LOCK_NAME = "lock"


def _only(service: Service, port: int) -> Ports:
    return replace(Ports(), **{service.name: port})


def _order(service: Service) -> int:
    return NAMES.index(service.name)


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _silent(_line: str) -> None:
    """Tell nobody."""
