"""Runs a Lua script for many rows at once, with a client of either kind."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_repo.connections import RedisConnections

# One script call holds up the whole server for as long as it runs: this many rows take about a millisecond.
_ROWS_PER_CALL = 500


@dataclass(frozen=True, slots=True)
class Row:
    """The key and the arguments of one row."""

    key: bytes
    arguments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Call:
    keys: list[bytes]
    arguments: list[bytes]


class RowScript:
    """A script whose keys are rows, and whose arguments are some common ones and then those of each row.

    Many rows go into one call. In a cluster each row is a call of its own, because the rows' keys live in different
    slots.

    Args:
        paths: the Lua files that make it up, in their order.
    """

    def __init__(self, *paths: Path) -> None:
        self._source = b"\n".join(path.read_bytes() for path in paths)
        self._sha = hashlib.sha1(self._source).hexdigest()  # noqa: S324 - Redis names scripts so

    def run(self, connections: RedisConnections, common: Sequence[bytes], rows: Sequence[Row]) -> list[Any]:
        """Run the script over all rows.

        Returns:
            the answers of the calls, in the order of the rows.

        Raises:
            OnlineStoreError: Redis does not answer, or is full; some rows may have been written.
        """
        from redis.exceptions import NoScriptError

        calls = self._calls(common, rows, one_each=connections.is_cluster)
        with connections.explained():
            client = connections.blocking()
            if connections.is_cluster or len(calls) == 1:
                return [self._call(client, call) for call in calls]
            with client.pipeline(transaction=False) as pipe:
                for call in calls:
                    pipe.evalsha(self._sha, len(call.keys), *call.keys, *call.arguments)
                answers = pipe.execute(raise_on_error=False)
            for index, answer in enumerate(answers):
                if isinstance(answer, NoScriptError):
                    answers[index] = self._call(client, calls[index])
                elif isinstance(answer, Exception):
                    raise answer
            return list(answers)

    async def run_async(self, connections: RedisConnections, common: Sequence[bytes], rows: Sequence[Row]) -> list[Any]:
        """Do what `run` does, on the running loop."""
        from redis.exceptions import NoScriptError

        calls = self._calls(common, rows, one_each=connections.is_cluster)
        with connections.explained():
            client = connections.asynchronous()
            if connections.is_cluster or len(calls) == 1:
                return list(await asyncio.gather(*(self._call_async(client, call) for call in calls)))
            async with client.pipeline(transaction=False) as pipe:
                for call in calls:
                    pipe.evalsha(self._sha, len(call.keys), *call.keys, *call.arguments)
                answers = await pipe.execute(raise_on_error=False)
            for index, answer in enumerate(answers):
                if isinstance(answer, NoScriptError):
                    answers[index] = await self._call_async(client, calls[index])
                elif isinstance(answer, Exception):
                    raise answer
            return list(answers)

    def _calls(self, common: Sequence[bytes], rows: Sequence[Row], *, one_each: bool) -> list[_Call]:
        size = 1 if one_each else _ROWS_PER_CALL
        calls = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            arguments = [*common, *(argument for row in part for argument in row.arguments)]
            calls.append(_Call([row.key for row in part], arguments))
        return calls

    def _call(self, client: Any, call: _Call) -> Any:
        from redis.exceptions import NoScriptError

        try:
            return client.evalsha(self._sha, len(call.keys), *call.keys, *call.arguments)
        except NoScriptError:  # a restarted or another server; eval loads the script as well
            return client.eval(self._source, len(call.keys), *call.keys, *call.arguments)

    async def _call_async(self, client: Any, call: _Call) -> Any:
        from redis.exceptions import NoScriptError

        try:
            return await client.evalsha(self._sha, len(call.keys), *call.keys, *call.arguments)
        except NoScriptError:
            return await client.eval(self._source, len(call.keys), *call.keys, *call.arguments)
