"""Deliveries that wait on disk until their receiver has taken them: what is put here is sent, whatever dies meanwhile.

One file per delivery under a folder; it appears whole or not at all. A delivery that was taken is moved to `delivered/`
in one step, so its id is known for a while and put again does nothing. A receiver may still see a delivery twice, when
we die between its answer and that step: it knows it by the id, which never changes. What a receiver will never take is
moved to `refused/` with its answer.
"""

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tenacity import Retrying, retry_if_exception, wait_random_exponential
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_after_attempt, stop_when_event_set

from config.errors import ShopstreamError
from sinks.errors import DeliveryRefusedError, NotDeliveredError, OutboxError
from sinks.outbox_files import Delivery, locked, read_delivery, seconds_since, settle

__all__ = ["Delivery", "FlushCounts", "Outbox", "Send"]

logger = logging.getLogger(__name__)

KNOWN_FOR_S: Final = 30 * 86_400.0
LEFTOVER_AFTER_S: Final = 3_600.0
_DELIVERED: Final = "delivered"
_REFUSED: Final = "refused"
_UNFINISHED: Final = ".unfinished-"
_WAIT_S: Final = 0.5
_WAIT_MAX_S: Final = 30.0

Send = Callable[[Delivery], None]


@dataclass(frozen=True, slots=True)
class FlushCounts:
    """What one flush did.

    Attributes:
        delivered: deliveries that were taken.
        refused: deliveries that will never be.
        waiting: deliveries that are tried again later.
    """

    delivered: int = 0
    refused: int = 0
    waiting: int = 0


class Outbox:
    """The folder of deliveries. Threads and processes may share it.

    Args:
        folder: created with the first delivery.
        senders: by kind; each returns once a delivery was taken, and raises NotDeliveredError or DeliveryRefusedError.
        attempts: tries in a row of one delivery, before the flush goes on with another kind.
        sleep: waits between two tries, in seconds; None to wait until `stop` is set.
    """

    def __init__(
        self,
        folder: Path,
        senders: Mapping[str, Send] | None = None,
        *,
        attempts: int = 5,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.folder = folder
        self._senders = dict(senders or {})
        self._attempts = attempts
        self._sleep = sleep

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of deliveries that there is a sender for."""
        return tuple(self._senders)

    def put(self, delivery: Delivery) -> bool:
        """Keep a delivery until it is taken; it is on the disk when this returns.

        Returns:
            Whether it is new; one of the same kind and id that waits, was taken or was refused is not put again.

        Raises:
            OutboxError: it could not be written.
        """
        name = delivery.file_name
        with self._explained(name):
            if any((self.folder / part / name).exists() for part in (_DELIVERED, _REFUSED, "")):
                return False
            for part in (_DELIVERED, _REFUSED):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            unfinished = self._written(delivery)
            try:
                os.link(unfinished, self.folder / name)  # fails where somebody was faster
            except FileExistsError:
                return False
            finally:
                unfinished.unlink()
            settle(self.folder)
        return True

    def waiting(self) -> list[Delivery]:
        """Return what waits, oldest first.

        Raises:
            OutboxError: the folder cannot be read.
        """
        return self._read("")

    def refused(self) -> list[Delivery]:
        """Return what a receiver will never take, oldest first; `answer` tells why.

        Raises:
            OutboxError: the folder cannot be read.
        """
        return self._read(_REFUSED)

    def flush(self, stop: threading.Event | None = None) -> FlushCounts:
        """Try to deliver all that waits, and return. After a failure the others of that kind are left for later.

        What another process is sending at this moment is left to it.

        Args:
            stop: once it is set, nothing more is tried.

        Raises:
            OutboxError: the folder cannot be read or written; nothing is lost.
        """
        stop = stop or threading.Event()
        self._clean()
        delivered = refused = 0
        failing: set[str] = set()
        for listed in self.waiting():
            if stop.is_set() or listed.kind in failing or listed.kind not in self._senders:
                continue
            path = self.folder / listed.file_name
            with self._explained(path.name), locked(path) as is_ours:
                delivery = read_delivery(path) if is_ours else None
                if delivery is None:
                    continue
                part = self._settled(delivery, stop)
            delivered += part == _DELIVERED
            refused += part == _REFUSED
            if not part:
                failing.add(delivery.kind)
        return FlushCounts(delivered, refused, len(self.waiting()))

    def put_back(self) -> int:
        """Let all that was refused wait again, for whoever has mended what it was refused for.

        Returns:
            How many.

        Raises:
            OutboxError: the folder cannot be read or written.
        """
        found = self.refused()
        for delivery in found:
            name = delivery.file_name
            with self._explained(name):
                (self.folder / _REFUSED / name).replace(self.folder / name)
                settle(self.folder)
        return len(found)

    def _settled(self, delivery: Delivery, stop: threading.Event) -> str:
        """Try to deliver, and return the folder where the file went; empty if it waits."""
        name = delivery.file_name
        for part in (_DELIVERED, _REFUSED):
            if (self.folder / part / name).exists():  # put again at the moment it was settled
                (self.folder / name).unlink()
                return part
        tried = delivery

        def attempt() -> None:
            nonlocal tried
            tried = replace(tried, attempts=tried.attempts + 1)
            self._senders[delivery.kind](tried)

        retrying = Retrying(
            retry=retry_if_exception(_is_passing),
            wait=wait_random_exponential(multiplier=_WAIT_S, max=_WAIT_MAX_S),
            stop=stop_after_attempt(self._attempts) | stop_when_event_set(stop),
            sleep=self._sleep or sleep_using_event(stop),
            reraise=True,
        )
        try:
            retrying(attempt)
        except DeliveryRefusedError as error:
            logger.error(  # noqa: TRY400 - the sentence is enough
                "%s %s is refused, and kept in %s: %s", delivery.kind, delivery.id, self.folder / _REFUSED, error
            )
            # written anew there, not here: a file of another inode would not be under our lock
            self._written(replace(tried, answer=str(error))).replace(self.folder / _REFUSED / name)
            settle(self.folder / _REFUSED)
            (self.folder / name).unlink()
            return _REFUSED
        except ShopstreamError as error:
            logger.warning("%s %s waits in the outbox: %s", delivery.kind, delivery.id, error)
            self._written(replace(tried, answer=str(error))).replace(self.folder / name)
            return ""
        except Exception as error:  # a mistake in one sender must not hold up the others
            logger.exception("%s %s could not be sent, and waits in the outbox", delivery.kind, delivery.id)
            self._written(replace(tried, answer=type(error).__name__)).replace(self.folder / name)
            return ""
        os.utime(self.folder / name)  # its age there is that of the answer
        (self.folder / name).replace(self.folder / _DELIVERED / name)
        settle(self.folder / _DELIVERED)
        return _DELIVERED

    def _written(self, delivery: Delivery) -> Path:
        content = {
            "id": delivery.id,
            "kind": delivery.kind,
            "payload": dict(delivery.payload),
            "created_ms": delivery.created_ms,
            "attempts": delivery.attempts,
            "answer": delivery.answer,
        }
        path = self.folder / f"{_UNFINISHED}{uuid.uuid4().hex}"
        with path.open("x", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        return path

    def _read(self, part: str) -> list[Delivery]:
        found = []
        with self._explained(part or "."):
            for path in (self.folder / part).glob("*.json"):
                delivery = read_delivery(path)
                if delivery is not None:
                    found.append(delivery)
        return sorted(found, key=lambda delivery: (delivery.created_ms, delivery.kind, delivery.id))

    def _clean(self) -> None:
        now_s = time.time()
        for pattern, age_s in ((f"{_DELIVERED}/*.json", KNOWN_FOR_S), (f"{_UNFINISHED}*", LEFTOVER_AFTER_S)):
            with self._explained(pattern):
                for path in self.folder.glob(pattern):
                    if seconds_since(path, now_s) > age_s:
                        path.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutboxError(
                f"The outbox at {self.folder} cannot be used ({what}: {error}).",
                hint="Check that the disk has room and that this user may write there.",
            ) from error


def _is_passing(error: BaseException) -> bool:
    """Try again at once only what may go away by itself, not what a person must mend."""
    return isinstance(error, NotDeliveredError) and error.is_passing
