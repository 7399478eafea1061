"""Clients of the online store, one per event loop, with one way to tell what went wrong.

The client library is imported when it is first used: it is half of what starting the command would cost.
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from config.security import split_login, tls_refusal
from feature_repo.errors import OnlineStoreAccessError, OnlineStoreError

_MISSING_RIGHT = re.compile(r"no permissions?|NOPERM|ACL failure|can't access|cannot access", re.IGNORECASE)


class RedisConnections:
    """Opens clients when they are first needed.

    A client of asyncio belongs to the loop that it was made in: a new loop gets a new one.

    Args:
        url: redis://[user:password@]host:port/db, rediss:// or unix://; certificates are options of the client in
            its query (`config.services.RedisSettings.connection_url`).
        timeout_s: how long an answer may take.
        cluster: whether the server is a Redis Cluster.
    """

    def __init__(self, url: str, *, timeout_s: float, cluster: bool = False) -> None:
        self._url = url
        self._cluster = cluster
        self._options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        self._blocking: Any = None
        self._asynchronous: tuple[asyncio.AbstractEventLoop, Any] | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether a script may touch the keys of one slot only."""
        return self._cluster

    @property
    def address(self) -> str:
        """The URL without its secrets, for messages."""
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))

    def blocking(self) -> Any:
        """Return the client for code without a loop."""
        if self._blocking is None:
            from redis import Redis, RedisCluster

            self._blocking = self._open(RedisCluster if self._cluster else Redis)
        return self._blocking

    def asynchronous(self) -> Any:
        """Return the client of the running loop."""
        loop = asyncio.get_running_loop()
        if self._asynchronous is None or self._asynchronous[0] is not loop:
            from redis import asyncio as redis_asyncio

            self._asynchronous = (
                loop,
                self._open(redis_asyncio.RedisCluster if self._cluster else redis_asyncio.Redis),
            )
        return self._asynchronous[1]

    async def close(self) -> None:
        """Close both clients; the next use opens new ones."""
        held, self._asynchronous = self._asynchronous, None
        if held is not None and held[0] is asyncio.get_running_loop():
            await held[1].aclose()
        self.close_blocking()

    def close_blocking(self) -> None:
        """Close the client for code without a loop."""
        client, self._blocking = self._blocking, None
        if client is not None:
            client.close()

    def _open(self, kind: Any) -> Any:
        with self.explained():
            try:
                return kind.from_url(self._url, **self._options)
            except ValueError as error:
                raise OnlineStoreError(
                    f"redis.url cannot be used ({type(error).__name__}).",  # whose text may quote the password
                    hint="It looks like redis://[user:password@]host:6379/0.",
                ) from None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what the client raises into an OnlineStoreError that says what to do."""
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            raise self._in_words(error) from error

    def _in_words(self, error: Exception) -> OnlineStoreError:
        from redis.exceptions import AuthenticationError, AuthorizationError, OutOfMemoryError, ResponseError

        said = str(error).rstrip(". ")
        if isinstance(error, AuthenticationError | AuthorizationError):
            return OnlineStoreAccessError(
                f"Redis at {self.address} refused the login of {self._user}: {said}.",
                hint="Check redis.username and redis.password.",
            )
        if isinstance(error, OutOfMemoryError) or said.startswith("OOM"):
            return OnlineStoreError(
                f"Redis at {self.address} is full, so nothing more was written.",
                hint="Raise its maxmemory or remove keys. Do not let it evict: a lost state is a wrong feature.",
            )
        if isinstance(error, ResponseError):
            return self._refused(said)
        refusal = tls_refusal(error)
        if refusal is not None:
            return OnlineStoreAccessError(
                f"Redis at {self.address} could not be connected to by TLS: {refusal}.",
                hint="Check redis.ca_file, redis.certificate_file and redis.key_file, and the host name in redis.url.",
            )
        hint = "Is it running (`shopstream stack status`), and does redis.url name it?"
        if self._url.startswith("rediss:"):
            hint += " Does it speak TLS there, and does it ask for redis.certificate_file?"
        return OnlineStoreError(f"Redis at {self.address} does not answer: {said}.", hint=hint)

    def _refused(self, said: str) -> OnlineStoreError:
        if _MISSING_RIGHT.search(said):
            return OnlineStoreAccessError(
                f"Redis at {self.address} does not allow {self._user} a command: {said}.",
                hint="Add it to the user's ACL rule: docs/how-to/secure-connections.md lists the least rights.",
            )
        return OnlineStoreError(f"Redis at {self.address} refused a command: {said}.")

    @property
    def _user(self) -> str:
        name = split_login(self._url).username
        return f"user {name}" if name else "the default user"
