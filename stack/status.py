"""What a stack looks like from outside: which process, which port, how much memory, does it answer."""

from dataclasses import dataclass, replace

from stack.processes import load_identity, rss_bytes, with_marker
from stack.service import Folders, Service, only

_ANSWER_S = 2.0


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


def external(service: Service) -> ServiceStatus:
    """Describe a service that the user provides."""
    return ServiceStatus(service.name, "external", None, None, 0, "", "the user's own, by a setting", "")


def look_at(service: Service, folders: Folders) -> ServiceStatus:
    """Look at one service of a stack, and ask it something if it runs."""
    log = str(folders.logs / f"{service.name}.log")
    stopped = ServiceStatus(service.name, "stopped", None, None, 0, "", "", log)
    identity = load_identity(folders.identity(service.name), service.marker(folders))
    process = identity.process() if identity else None
    if identity is None or process is None:
        strays = with_marker(service.marker(folders))
        if strays:
            lost = replace(stopped, state="unhealthy", pid=strays[0].pid, rss_bytes=rss_bytes(strays[0]))
            return replace(lost, detail="runs, but its pid file is lost; `shopstream stack up` mends it")
        gone = "its process is gone; `shopstream stack up` starts it again"
        return replace(stopped, detail="" if identity is None else gone)
    ports = only(service, identity.port)
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
