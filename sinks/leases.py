"""Readers of the lake that take long say so, and `lake maintain` keeps the files that they may still need.

A lease is a small file beside the tables: who reads, and since when nothing may have been replaced that it reads. Its
owner renews it. One that was not renewed for a while belongs to a process that died.
"""

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from sinks.lake_lock import repeated
from sinks.lake_root import Lake, LakeRoot, is_there
from sinks.table_files import file_system, files_below

logger = logging.getLogger(__name__)

FOLDER: Final = ".readers"
RENEWED_S: Final = 60.0
DEAD_AFTER_S: Final = 600.0


class Lease(NamedTuple):
    """One reader.

    Attributes:
        reader: what it is, in words.
        since_ms: files that were replaced since may be needed, integer milliseconds UTC.
    """

    reader: str
    since_ms: int


@contextmanager
def reading(lake: Lake, reader: str) -> Iterator[None]:
    """Keep what the lake holds now, or held at its pin, from being deleted for the time of the block.

    Args:
        reader: what reads, in words: `lake maintain` tells it.

    Raises:
        LakeVersionError: the lake is pinned to a version that is not there any more.
    """
    if not is_there(lake):
        yield
        return
    path = f"{FOLDER}/{uuid.uuid4().hex}.json"
    lease = Lease(f"{reader} (process {os.getpid()} on {socket.gethostname()})", _since_ms(lake))
    files = file_system(lake)
    try:
        files.create_dir(FOLDER)
        _write(files, path, lease)
    except OSError as error:
        logger.warning("A `lake maintain` beside this run does not know of it: no lease can be written (%s).", error)
        yield
        return
    try:
        with repeated(lambda: _write(files, path, lease), RENEWED_S, f"lease of {reader}"):
            yield
    finally:
        with suppress(FileNotFoundError):
            files.delete_file(path)


def leases(lake: Lake) -> list[Lease]:
    """Return the readers that are under way, the one that needs the oldest files first."""
    files = file_system(lake)
    found = []
    for file in files_below(lake, FOLDER):
        if file.age_s < DEAD_AFTER_S:
            with suppress(FileNotFoundError, ValueError, TypeError), files.open_input_stream(file.path) as stream:
                found.append(Lease(**json.loads(stream.read())))
    return sorted(found, key=lambda lease: lease.since_ms)


def hours_to_keep(found: list[Lease], hours: int) -> int:
    """Return how many hours replaced files must stay: those given, or more where a reader began earlier."""
    now_ms = time.time_ns() // 1_000_000
    return max([hours, *(1 + (now_ms - lease.since_ms) // 3_600_000 for lease in found)])


def _since_ms(lake: Lake) -> int:
    now_ms = time.time_ns() // 1_000_000
    if not isinstance(lake, LakeRoot) or not lake.pin:
        return now_ms
    from sinks.time_travel import version_instant

    moments = [version_instant(lake / table) for table in lake.pin.versions]
    if lake.pin.instant is not None:
        moments.append(lake.pin.instant)
    return min([now_ms, *(round(moment.timestamp() * 1000) for moment in moments)])


def _write(files: Any, path: str, lease: Lease) -> None:
    # through a buffer: without one, Arrow hands the object store's writer something that it does not take (1.6)
    with files.open_output_stream(path, buffer_size=65_536) as stream:
        stream.write(json.dumps(lease._asdict()).encode())
