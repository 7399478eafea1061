"""A sample of what a reader answered, on its way to the lake's table `served`; never in the way of a read.

Which answers are kept is decided by a hash of the user and the moment of the read, so that every reader decides alike
and nobody has to draw lots. A kept answer is put into its final form at once, because whoever asked may change what it
was given. A thread of the log writes what has gathered. When the lake does not take it, rows wait in memory up to a
bound; beyond it new ones are dropped, and counted.
"""

import atexit
import hashlib
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, Self

import msgspec
from prometheus_client import CollectorRegistry, Counter

from config.metrics import SERVING_METRICS
from config.settings import Settings
from features.catalog import DEFINITION_VERSION, VIEWS
from schemas.privacy import Pseudonyms
from sinks.lake_root import lake_of
from sinks.served import ServedRow, ServedSink, ServedView, catalog_fingerprint

if TYPE_CHECKING:
    from serving.reader import UserFeatures

logger = logging.getLogger(__name__)

FLUSH_ROWS: Final = 2_000
CLOSE_TRIES: Final = 2
_HASHES: Final = 2**64


class RowSink(Protocol):
    """What writes the rows of one reader."""

    def append(self, rows: Sequence[ServedRow], /) -> None:
        """Write rows; again is harmless. Whatever it raises, the same rows are offered again."""
        ...


def is_kept(user_id: str, read_ms: int, share: float) -> bool:
    """Decide whether the answer to a read is kept, alike everywhere: by a hash of the user and the moment.

    Args:
        read_ms: when it was read, integer milliseconds UTC.
        share: of all answers, 0 to 1.
    """
    digest = hashlib.blake2b(f"{user_id}\0{read_ms}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _HASHES


class ServedLog:
    """Keeps a share of the answers. Threads may share one, and so may their readers; close it at the end.

    Args:
        sink: where rows go; called by one thread at a time.
        reader_id: of the rows; another for each log.
        share: of all answers, 0 to 1.
        buffer_rows_max: rows in memory at which further ones are dropped.
        flush_interval_s: longest time that a row waits, while the sink takes them.
        pseudonyms: what user ids are stored under; None where they are stored as they are.
        registry: where the metrics of `config.metrics.SERVING_METRICS` are collected.

    Attributes:
        written: rows that are in the lake.
        dropped: rows that are not, and will not be.
    """

    def __init__(
        self,
        sink: RowSink,
        *,
        reader_id: str,
        share: float,
        buffer_rows_max: int,
        flush_interval_s: float,
        pseudonyms: Pseudonyms | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._sink = sink
        self._reader_id = reader_id
        self._share = share
        self._rows_max = buffer_rows_max
        self._flush_rows = min(FLUSH_ROWS, buffer_rows_max)
        self._interval_s = flush_interval_s
        self._stored_id: Callable[[str], str] = str if pseudonyms is None else pseudonyms.of
        self._catalog = catalog_fingerprint()
        self._encode = msgspec.json.Encoder().encode
        rows = SERVING_METRICS[0]
        counter = Counter(rows.name, rows.description, rows.labels, registry=registry or CollectorRegistry())
        self._count = {outcome: counter.labels(outcome) for outcome in ("written", "dropped")}
        self.written = 0
        self.dropped = 0
        self._waiting: list[ServedRow] = []
        self._under_way = 0
        self._sequence = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._thread.start()
        # a daemon that is inside the Delta library when the interpreter ends could take the process with it
        atexit.register(self.close)

    @classmethod
    def from_settings(cls, settings: Settings, registry: CollectorRegistry | None = None) -> "Self | None":
        """Open the log that the settings ask for; None when they ask for none."""
        serving = settings.serving
        if not serving.served_share:
            return None
        reader_id = uuid.uuid4().hex
        return cls(
            ServedSink(lake_of(settings), reader_id),
            reader_id=reader_id,
            share=serving.served_share,
            buffer_rows_max=serving.served_buffer_rows_max,
            flush_interval_s=serving.served_flush_interval_ms / 1000,
            pseudonyms=Pseudonyms.in_use(settings.privacy),
            registry=registry,
        )

    def offer(self, answers: "Sequence[UserFeatures]", read_ms: int, model: str | None) -> None:
        """Keep those answers of one read that belong to the sample; returns at once.

        Args:
            read_ms: when it was read, integer milliseconds UTC.
            model: who asked.
        """
        kept = [answer for answer in answers if is_kept(answer.user_id, read_ms, self._share)]
        if not kept:
            return
        with self._changed:
            room = 0 if self._is_closing else self._rows_max - len(self._waiting) - self._under_way
            for answer in kept[: max(room, 0)]:
                self._waiting.append(self._row(answer, read_ms, model))
                self._sequence += 1
            self._drop(len(kept) - max(room, 0))
            self._changed.notify_all()

    def close(self) -> None:
        """Write what is kept, and stop; what cannot be written is counted as dropped. Again is harmless."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        atexit.unregister(self.close)

    def _row(self, answer: "UserFeatures", read_ms: int, model: str | None) -> ServedRow:
        views = {}
        for topic, view in VIEWS.items():
            told = answer.views[view.view]
            views[topic] = ServedView(told.log_epoch, told.partition, told.version, told.servable_ms, told.status.value)
        return ServedRow(
            reader_id=self._reader_id,
            sequence=self._sequence,
            served_ms=read_ms,
            user_id=self._stored_id(answer.user_id),
            as_of_ms=read_ms if answer.as_of_ms is None else answer.as_of_ms,
            definition_version=DEFINITION_VERSION,
            catalog=self._catalog,
            model=model,
            values=self._encode(answer.values).decode(),
            views=views,
        )

    def _run(self) -> None:
        tries_left = CLOSE_TRIES
        while True:
            with self._changed:
                self._changed.wait_for(self._is_due, self._interval_s)
                rows, self._waiting = self._waiting, []
                self._under_way = len(rows)
                is_closing = self._is_closing
            self._has_failed = bool(rows) and not self._written(rows)
            if self._has_failed:
                tries_left -= is_closing
                self._put_back(rows, for_good=not tries_left)
            if is_closing and (not rows or not tries_left):
                return

    def _is_due(self) -> bool:
        # after a failure only time helps
        return self._is_closing or (not self._has_failed and len(self._waiting) >= self._flush_rows)

    def _written(self, rows: Sequence[ServedRow]) -> bool:
        try:
            self._sink.append(rows)
        except Exception as error:  # noqa: BLE001 - nothing of this may reach a reader, and the rows are kept
            logger.warning("%s answers could not be written to `served` (%s); tried again", len(rows), error)
            return False
        with self._changed:
            self._under_way = 0
            self.written += len(rows)
        self._count["written"].inc(len(rows))
        return True

    def _put_back(self, rows: list[ServedRow], *, for_good: bool) -> None:
        with self._changed:
            self._under_way = 0
            if for_good:
                self._drop(len(rows))
                logger.warning("%s answers are in memory only, and are dropped: the log is closed", len(rows))
            else:
                self._waiting = rows + self._waiting

    def _drop(self, count: int) -> None:
        if count > 0:
            if not self.dropped:
                logger.warning("answers are dropped: `served` does not take them as fast as they are kept")
            self.dropped += count
            self._count["dropped"].inc(count)
