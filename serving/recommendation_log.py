"""What was recommended to whom by which model, on its way to the lake's table `recommendations`.

Every answer is kept, not a sample: a click counts for the model whose answer it names. A failed try of a canary is a
row of its own, with what went wrong and without products; its id was never given to anybody.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, Self

from prometheus_client import CollectorRegistry

from config.metrics import SERVING_METRICS
from config.settings import Settings
from schemas.privacy import Pseudonyms
from serving.buffered_rows import BufferedRows, RowSink
from sinks.lake_root import Lake, lake_of
from sinks.quality_tables import RECOMMENDATIONS

_METRIC: Final = next(spec for spec in SERVING_METRICS if spec.name == "shopstream_recommendation_rows")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, or one failed try.

    Attributes:
        user_id: as stores hold it: the id itself, or its pseudonym.
        model: its version.
        role: `champion`, `canary` or `fallback`.
        product_ids: best first; none of a failed try.
        as_of_ms: the instant that was asked for, integer milliseconds UTC.
        seconds: how long the model took, without the reading of features.
        error: why the model did not answer, in words that quote nothing of the user; None if it did.
        served_ms: when, integer milliseconds UTC.
    """

    recommendation_id: str
    user_id: str
    model: str
    role: str
    product_ids: tuple[str, ...]
    as_of_ms: int
    seconds: float
    error: str | None
    served_ms: int


class NumberedAnswer(NamedTuple):
    """An answer with its number among those of its log."""

    sequence: int
    answer: Answer


class RecommendationSink:
    """Appends the answers of one log; blocking, and repeating a call is harmless. Not for several threads at once.

    Args:
        writer_id: under which no other log writes.
    """

    def __init__(self, lake: Lake, writer_id: str) -> None:
        self._lake = lake
        self._application = f"{RECOMMENDATIONS.name}-{writer_id}"

    def append(self, rows: Sequence[NumberedAnswer]) -> None:
        """Append those rows that the table does not hold yet; they come in the order of their numbers.

        Raises:
            LakeUnavailableError: nothing was written, or all of it was and the answer was lost.
            LakePinnedError: the lake is read as of an earlier moment.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake

        from sinks.delta import explained, open_or_create, writer_properties
        from sinks.lake_root import writable
        from sinks.noting import as_table

        address = writable(self._lake) / RECOMMENDATIONS.name
        with explained(address):
            handle = open_or_create(address, RECOMMENDATIONS)
            held = handle.transaction_version(self._application)
            missing = [row for row in rows if held is None or row.sequence > held]
            if not missing:
                return
            write_deltalake(
                handle,
                as_table(RECOMMENDATIONS, [_columns(row.answer) for row in missing]),
                mode="append",
                writer_properties=writer_properties(RECOMMENDATIONS),
                commit_properties=CommitProperties(
                    app_transactions=[Transaction(self._application, missing[-1].sequence)]
                ),
            )


class RecommendationLog:
    """Keeps answers until they are written. Threads may share it; close it at the end.

    Args:
        sink: where they go; called by one thread at a time.
        buffer_rows_max: answers in memory at which further ones are dropped.
        flush_interval_s: longest time that one waits, while the sink takes them.
        registry: where the metrics of `config.metrics.SERVING_METRICS` are collected.
    """

    def __init__(
        self,
        sink: RowSink[NumberedAnswer],
        *,
        buffer_rows_max: int,
        flush_interval_s: float,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._rows: BufferedRows[NumberedAnswer] = BufferedRows(
            sink,
            table=RECOMMENDATIONS.name,
            rows_max=buffer_rows_max,
            flush_interval_s=flush_interval_s,
            metric=_METRIC,
            registry=registry,
        )

    @classmethod
    def from_settings(cls, settings: Settings, registry: CollectorRegistry | None = None) -> Self:
        """Open a log on the lake of the settings."""
        return cls(
            RecommendationSink(lake_of(settings), uuid.uuid4().hex),
            buffer_rows_max=settings.rollout.buffer_rows_max,
            flush_interval_s=settings.rollout.flush_interval_ms / 1000,
            registry=registry,
        )

    @property
    def written(self) -> int:
        """Answers that are in the lake."""
        return self._rows.written

    @property
    def dropped(self) -> int:
        """Answers that are not, and will not be."""
        return self._rows.dropped

    def offer(self, answers: Sequence[Answer]) -> None:
        """Keep answers; returns at once."""
        self._rows.offer([partial(_numbered, answer) for answer in answers])

    def close(self) -> None:
        """Write what is kept, and stop; what cannot be written is counted as dropped. Again is harmless."""
        self._rows.close()


def recommendation_id(version: str) -> str:
    """Return a new id, at most 64 bytes: 128 random bits, and the version for people who look at events."""
    return f"r-{version[:24]}-{uuid.uuid4().hex}"


def stored_id_of(settings: Settings) -> Callable[[str], str]:
    """Return what makes of a user's id the one that stores hold."""
    pseudonyms = Pseudonyms.in_use(settings.privacy)
    return str if pseudonyms is None else pseudonyms.of


def _numbered(answer: Answer, sequence: int) -> NumberedAnswer:
    return NumberedAnswer(sequence, answer)


def _columns(answer: Answer) -> dict[str, Any]:
    names = Answer.__slots__
    return {name: getattr(answer, name) for name in names}
