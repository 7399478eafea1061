"""The ports of a stack: asked for, remembered, or free."""

import json
import random
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from stack.errors import PortInUseError, StackError
from stack.files import write_atomically

HOST = "127.0.0.1"
# Below the range from which systems take the local port of outgoing connections (32768 or 49152 and up): a client
# must not sit on a port of the stack while the stack is down.
_FIRST_PORT, _LAST_PORT = 20_000, 32_767
_ATTEMPTS = 500


@dataclass(frozen=True)
class Ports:
    """The TCP ports of one stack on 127.0.0.1; 0 stands for a free one.

    Attributes:
        controller: the port on which the broker is its own KRaft controller.
    """

    kafka: int = 0
    registry: int = 0
    redis: int = 0
    controller: int = 0


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def answers(port: int, timeout_s: float = 0.5) -> bool:
    """Tell whether something accepts a connection on this port of 127.0.0.1."""
    try:
        with socket.create_connection((HOST, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def free_port(taken: set[int]) -> int:
    """Find a port that is free now and not in `taken`.

    Raises:
        StackError: none was found.
    """
    for _ in range(_ATTEMPTS):
        port = random.randint(_FIRST_PORT, _LAST_PORT)  # noqa: S311 - spreads stacks that start at once
        if port not in taken and is_free(port):
            return port
    raise StackError(
        f"No free port was found between {_FIRST_PORT} and {_LAST_PORT}.", hint="Name the ports with --kafka-port etc."
    )


def verify(asked: Ports, own: set[int]) -> None:
    """Check that every port that is asked for can be had.

    Args:
        own: ports on which services of this very stack listen.

    Raises:
        PortInUseError: one belongs to another process, or is asked for twice.
    """
    seen: set[int] = set()
    for name, port in asdict(asked).items():
        if port in seen:
            raise PortInUseError(f"Port {port} is asked for twice.", hint="Give each service a port of its own.")
        if port and port not in own and not is_free(port):
            raise PortInUseError(
                f"Port {port}, asked for {name}, is used by another process.",
                hint="Name another port, or leave the flag away and a free one is taken.",
            )
        seen.update({port} - {0})


def choose(asked: Ports, remembered: Ports, running: Ports) -> Ports:
    """Choose a port for each service: what is asked for, else where it runs, else the last time's, else a free one.

    Args:
        running: ports of the services that keep running; 0 for the others.
    """
    asked_for, last, current = asdict(asked), asdict(remembered), asdict(running)
    chosen = {name: asked_for[name] or current[name] for name in asked_for}
    for name, port in chosen.items():
        taken = set(chosen.values())
        previous = last[name]
        if not port and previous and previous not in taken and is_free(previous):
            chosen[name] = previous
        elif not port:
            chosen[name] = free_port(taken | set(last.values()))
    return Ports(**chosen)


def load(path: Path) -> Ports:
    """Read the ports of the last start; a file that is missing or broken means that none are remembered."""
    try:
        found = json.loads(path.read_text())
        return Ports(**{name: int(found.get(name, 0)) for name in asdict(Ports())})
    except (OSError, ValueError, TypeError, AttributeError):
        return Ports()


def save(path: Path, ports: Ports) -> None:
    """Remember the ports for the next start."""
    write_atomically(path, json.dumps(asdict(ports), indent=2) + "\n")
