"""What was done with dead letters: the table `redrives`, one writer at a time.

Before a letter is published again, an intent is written; when Kafka has stored it, where; when its user's state was
rebuilt, that it was. All are appends, so a redrive that was killed at any point leaves what the next one goes on from.
Each append has a number, which is the transaction version of the table: of two redrives that begin at the same number,
Delta refuses the second.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sinks.errors import RedriveRunningError
from sinks.lake_root import Lake, is_remote, local_folder
from sinks.letter_reads import LogPosition, topic_id_of
from sinks.tables import REDRIVES, arrow_schema

APPLICATION_ID: Final = "redrives"
LOCK_FILE: Final = ".redrive.lock"
INTENDED: Final = "intended"
PUBLISHED: Final = "published"
FINISHED: Final = "finished"

_NOTHING_DONE: Final = "Another redrive of this lake is under way"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One dead letter that is, or is about to be, published again.

    Attributes:
        letter_epoch: log epoch of the letter's row.
        number: 1 for a record's first redrive; one more for each time that it came back.
        origin: the first letter of this record; the letter itself at first.
        search_offset: end of the target's partition when this was intended.
        target_offset: where it was stored; None while that is not known.
        redriven_ms: when its last step was taken, integer milliseconds UTC.
        is_finished: nothing remains to be done: its user's state was rebuilt, or it is a letter again.
    """

    letter: LogPosition
    letter_epoch: str
    reason: str
    number: int
    origin: LogPosition
    target_topic_id: str
    target_partition: int
    search_offset: int
    redriven_ms: int
    target_offset: int | None = None
    is_finished: bool = False

    @property
    def target(self) -> LogPosition | None:
        """Where it was stored."""
        if self.target_offset is None:
            return None
        return LogPosition(self.target_topic_id, self.letter.topic, self.target_partition, self.target_offset)

    def stored_at(self, partition: int, offset: int, now_ms: int) -> "Attempt":
        """Return the same attempt with its target."""
        return replace(self, target_partition=partition, target_offset=offset, redriven_ms=now_ms)


def read_attempts(lake: Lake) -> dict[LogPosition, Attempt]:
    """Return the last step that was taken with each letter that was ever redriven.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    return _read(lake)[0]


class RedriveLog:
    """The one writer of `redrives`, from `with` to its end.

    Args:
        lake: its folder is made when it is not there.

    Raises (on entering):
        RedriveRunningError: another process has it.
        LakeUnavailableError: the table cannot be read.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._lock = -1
        self._sequence = 0
        self._attempts: dict[LogPosition, Attempt] = {}
        self._appender: Any = None

    @property
    def attempts(self) -> Mapping[LogPosition, Attempt]:
        """What was done with each letter, this writer's own included."""
        return self._attempts

    def intend(self, attempts: Sequence[Attempt]) -> None:
        """Write down what is about to be published.

        Raises:
            RedriveRunningError: another redrive wrote since this one began; nothing was written.
            LakeUnavailableError: nothing was written, or the answer was lost: end this redrive and begin anew.
        """
        self._append(INTENDED, attempts)

    def note(self, attempts: Sequence[Attempt]) -> None:
        """Write down where attempts were stored; raises as `intend` does."""
        self._append(PUBLISHED, attempts)

    def finish(self, attempts: Sequence[Attempt], now_ms: int) -> None:
        """Write down that nothing remains to be done for attempts; raises as `intend` does."""
        self._append(FINISHED, [replace(attempt, is_finished=True, redriven_ms=now_ms) for attempt in attempts])

    def __enter__(self) -> Self:
        from sinks.delta import DeltaAppender

        if not is_remote(self._lake):  # there, the second is refused by the number of its first append
            self._take_lock(local_folder(self._lake, "A redrive"))
        self._appender = DeltaAppender(self._lake, REDRIVES)
        self._attempts, self._sequence = _read(self._lake)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._appender = None

    def _take_lock(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it when we die, however we do
        except BlockingIOError:
            os.close(lock)
            raise RedriveRunningError(f"{_NOTHING_DONE}.", hint="Wait until it has ended, then try again.") from None
        self._lock = lock

    def _append(self, step: str, attempts: Sequence[Attempt]) -> None:
        from sinks.delta import TablePart

        if not attempts:
            return
        sequence = self._sequence + 1
        rows = _rows(step, sequence, attempts)
        counts = self._appender.append([TablePart(APPLICATION_ID, sequence, rows)])
        if counts.written != len(attempts):  # all rows have one number, so it is all or nothing
            raise RedriveRunningError(
                f"{_NOTHING_DONE}, or the lake's answer was lost: append {sequence} of the table is there already.",
                hint="Run `shopstream dlq redrive` again: it goes on from what is written down.",
            )
        self._sequence = sequence
        self._attempts.update((attempt.letter, attempt) for attempt in attempts)


def _read(lake: Lake) -> tuple[dict[LogPosition, Attempt], int]:
    from sinks.delta import explained, opened

    path = lake / REDRIVES.name
    handle = opened(path)
    if handle is None:
        return {}, 0
    with explained(path):
        rows = handle.to_pyarrow_dataset().to_table().sort_by("sequence").to_pylist()
    attempts: dict[LogPosition, Attempt] = {}
    for row in rows:
        attempt = _attempt(row)
        attempts[attempt.letter] = attempt
    return attempts, handle.transaction_version(APPLICATION_ID) or 0


def _attempt(row: Mapping[str, Any]) -> Attempt:
    topic = row["topic"]
    return Attempt(
        letter=LogPosition(topic_id_of(row["log_epoch"]), topic, row["partition"], row["offset"]),
        letter_epoch=row["log_epoch"],
        reason=row["reason"],
        number=row["attempt"],
        origin=LogPosition(row["origin_topic_id"], topic, row["origin_partition"], row["origin_offset"]),
        target_topic_id=row["target_topic_id"],
        target_partition=row["target_partition"],
        search_offset=row["search_offset"],
        redriven_ms=row["redriven_ms"],
        target_offset=row["target_offset"],
        is_finished=row["step"] == FINISHED,
    )


def _rows(step: str, sequence: int, attempts: Sequence[Attempt]) -> Any:
    import pyarrow as pa

    rows = [
        {
            "sequence": sequence,
            "step": step,
            "log_epoch": attempt.letter_epoch,
            "topic": attempt.letter.topic,
            "partition": attempt.letter.partition,
            "offset": attempt.letter.offset,
            "reason": attempt.reason,
            "attempt": attempt.number,
            "origin_topic_id": attempt.origin.topic_id,
            "origin_partition": attempt.origin.partition,
            "origin_offset": attempt.origin.offset,
            "target_topic_id": attempt.target_topic_id,
            "target_partition": attempt.target_partition,
            "search_offset": attempt.search_offset,
            "target_offset": attempt.target_offset,
            "redriven_ms": attempt.redriven_ms,
            "redriven_date": datetime.fromtimestamp(attempt.redriven_ms / 1000, UTC).date(),
        }
        for attempt in attempts
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(REDRIVES))
