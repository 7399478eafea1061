"""Searches everything that a run leaves behind for what should be in none of it."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from redis import Redis

from config.settings import Settings


class Trace(NamedTuple):
    """One needle, and where it was found."""

    needle: str
    where: str


def traces(settings: Settings, needles: Iterable[str], texts: Iterable[tuple[str, str]] = ()) -> list[Trace]:
    """Search the lake's files, Redis, and some texts (name, content) such as logs and metrics.

    Every Parquet file on the disk is decoded, whether a version of its table knows it or not, and every value of it is
    searched; so are the logs of the tables, their checkpoints, and the bytes of every file as they are.
    """
    wanted = [needle.encode() for needle in needles]
    found: dict[Trace, None] = {}
    haystacks = (*lake_contents(settings.lake_path), *redis_contents(settings), *_encoded(texts))
    for where, content in haystacks:
        for needle in wanted:
            if needle in content:
                found[Trace(needle.decode(), where)] = None
    return list(found)


def lake_contents(lake: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (where, bytes) of all that lies in a lake's folder."""
    for path in sorted(lake.rglob("*")):
        if not path.is_file():
            continue
        name = str(path.relative_to(lake))
        yield name, path.name.encode() + b"\0" + path.read_bytes()
        if path.suffix == ".parquet":
            yield from ((f"{name}, decoded", value) for value in _values(pq.read_table(path).to_pylist()))
        elif path.suffix == ".json":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            yield from ((f"{name}, decoded", value) for value in _values(lines))


def redis_contents(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Yield (where, bytes) of every key and value."""
    with Redis.from_url(settings.redis.url.get_secret_value()) as redis:
        for key in redis.scan_iter(count=1_000):
            yield "a key of Redis", key
            kind = redis.type(key).decode()
            assert kind in {"hash", "string"}, f"a {kind} in Redis is not searched"
            values = redis.hgetall(key) if kind == "hash" else {b"": redis.get(key)}
            yield from (("a value of Redis", field + b"\0" + value) for field, value in values.items())


def _encoded(texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    return ((name, text.encode()) for name, text in texts)


def _values(nested: Any) -> Iterator[bytes]:
    """Yield every text and every byte string inside, and numbers and dates as text."""
    if isinstance(nested, dict):
        for key, value in nested.items():
            yield str(key).encode()
            yield from _values(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from _values(value)
    elif isinstance(nested, bytes):
        yield nested
    else:
        yield str(nested).encode()
