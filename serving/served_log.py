"""A sample of what a reader answered, on its way to the lake's table `served`; never in the way of a read.

Which answers are kept is decided by a hash of the user and the moment of the read, so that every reader decides alike
and nobody has to draw lots. A kept answer is put into its final form at once, because whoever asked may change what it
was given.
"""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import msgspec
from prometheus_client import CollectorRegistry

from config.metrics import SERVING_METRICS
from config.settings import Settings
from features.catalog import DEFINITION_VERSION, VIEWS
from schemas.privacy import Pseudonyms
from serving.buffered_rows import BufferedRows, RowSink
from sinks.derived_tables import SERVED
from sinks.lake_root import lake_of
from sinks.served import ServedRow, ServedSink, ServedView, catalog_fingerprint

if TYPE_CHECKING:
    from serving.reader import UserFeatures

_HASHES: Final = 2**64


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
    """

    def __init__(
        self,
        sink: RowSink[ServedRow],
        *,
        reader_id: str,
        share: float,
        buffer_rows_max: int,
        flush_interval_s: float,
        pseudonyms: Pseudonyms | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._reader_id = reader_id
        self._share = share
        self._stored_id: Callable[[str], str] = str if pseudonyms is None else pseudonyms.of
        self._catalog = catalog_fingerprint()
        self._encode = msgspec.json.Encoder().encode
        self._rows = BufferedRows(
            sink,
            table=SERVED.name,
            rows_max=buffer_rows_max,
            flush_interval_s=flush_interval_s,
            metric=SERVING_METRICS[0],
            registry=registry,
        )

    @property
    def written(self) -> int:
        """Rows that are in the lake."""
        return self._rows.written

    @property
    def dropped(self) -> int:
        """Rows that are not, and will not be."""
        return self._rows.dropped

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
        self._rows.offer([partial(self._row, answer, read_ms, model) for answer in kept])

    def close(self) -> None:
        """Write what is kept, and stop; what cannot be written is counted as dropped. Again is harmless."""
        self._rows.close()

    def _row(self, answer: "UserFeatures", read_ms: int, model: str | None, sequence: int) -> ServedRow:
        views = {}
        for topic, view in VIEWS.items():
            told = answer.views[view.view]
            views[topic] = ServedView(told.log_epoch, told.partition, told.version, told.servable_ms, told.status.value)
        return ServedRow(
            reader_id=self._reader_id,
            sequence=sequence,
            served_ms=read_ms,
            user_id=self._stored_id(answer.user_id),
            as_of_ms=read_ms if answer.as_of_ms is None else answer.as_of_ms,
            definition_version=DEFINITION_VERSION,
            catalog=self._catalog,
            model=model,
            values=self._encode(answer.values).decode(),
            views=views,
        )
