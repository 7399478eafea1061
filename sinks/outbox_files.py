"""The files of an outbox: a delivery as JSON, who has the file in hand, and names that survive a loss of power."""

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing to be delivered.

    Attributes:
        id: the same for every try, and for whoever puts the same thing again.
        kind: which sender takes it: `webhook`, `kafka` or `airflow`.
        payload: a JSON object, as its sender understands it.
        created_ms: when it was put, integer milliseconds UTC.
        attempts: tries so far.
        answer: what came of the last one; empty before the first.
    """

    id: str
    kind: str
    payload: Mapping[str, Any] = field(hash=False)
    created_ms: int
    attempts: int = 0
    answer: str = ""

    @property
    def file_name(self) -> str:
        """Name of its file, alike wherever it lies."""
        is_plain = _PLAIN_ID.fullmatch(self.id) is not None
        name = self.id if is_plain else hashlib.blake2b(self.id.encode(), digest_size=16).hexdigest()
        return f"{self.kind}-{name}.json"


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, which ends with its process; False when somebody else does, or the file is gone."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # somebody may have moved it, or written it anew, between our opening and locking it
            is_ours = path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        yield is_ours


def read_delivery(path: Path) -> Delivery | None:
    """Read a file; return None where it was taken meanwhile, or is none of ours."""
    try:
        return Delivery(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        logger.error("%s is not a delivery and is left alone (%s): move it away", path, error)  # noqa: TRY400
        return None


def settle(folder: Path) -> None:
    """Make a new name in a folder survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seconds_since(path: Path, now_s: float) -> float:
    """Return how long ago a file was written, in seconds; 0 if it is gone."""
    try:
        return now_s - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
