"""Locks about requests for retrainings: files of one home, and locks of the system that end with their process."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LOCK_FILE: Final = "retraining.lock"
CLAIMS_FOLDER: Final = "retraining"


class RetrainingLocks:
    """The lock of decisions, and one for each request that somebody runs."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Wait until nobody else decides, and keep others waiting for the time of the block."""
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / LOCK_FILE).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def claimed(self, request_id: str) -> Iterator[bool]:
        """Hold a request for the time of the block; False when somebody else does."""
        folder = self._home / CLAIMS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{request_id}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_ours = True
            except BlockingIOError:
                is_ours = False
            yield is_ours

    def is_claimed(self, request_id: str) -> bool:
        """Tell whether somebody holds a request."""
        if not (self._home / CLAIMS_FOLDER / f"{request_id}.lock").exists():
            return False
        with self.claimed(request_id) as is_free:
            return not is_free
