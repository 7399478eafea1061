"""Keeps processes of one home from moving models at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Final

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from serving.errors import RolloutBusyError

POLL_S: Final = 0.1


@contextmanager
def locked(file: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Keep others out for the time of the block; the lock of a process that dies ends with it.

    Args:
        wait_s: how long to wait for somebody else to finish.

    Raises:
        RolloutBusyError: somebody else is at it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    retrying = Retrying(
        retry=retry_if_exception_type(BlockingIOError),
        stop=stop_after_delay(wait_s),
        wait=wait_fixed(POLL_S),
        reraise=True,
    )
    with file.open("a") as lock:
        try:
            retrying(flock, lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise RolloutBusyError(
                f"Another process is moving a model: it holds {file}.", hint="Try again when it has finished."
            ) from error
        yield
