"""Keeps processes of one home from moving models at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from serving.errors import RolloutBusyError


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Keep others out for the time of the block; the lock of a process that dies ends with it.

    Raises:
        RolloutBusyError: somebody else is at it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise RolloutBusyError(
                f"Another process is moving a model: it holds {file}.", hint="Try again when it has finished."
            ) from error
        yield
