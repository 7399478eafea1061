"""Rows to the lake and letters to their topic; only then may offsets be committed."""

import asyncio
from collections.abc import Mapping

from streams.errors import SinkFailedError
from streams.metrics import WorkerMetrics
from streams.ports import Clock, Lake, Letters, TopicPartition
from streams.progress import PartitionProgress
from streams.retrying import SinkRetry


class Flusher:
    """Flushes all owned partitions together; one flush at a time, and none after one that was not finished.

    Args:
        partitions: the owned partitions, shared with the loop that fills their buffers.
    """

    def __init__(
        self,
        partitions: Mapping[TopicPartition, PartitionProgress],
        *,
        lake: Lake,
        letters: Letters,
        retry: SinkRetry,
        metrics: WorkerMetrics,
        clock: Clock,
    ) -> None:
        self._partitions = partitions
        self._lake = lake
        self._letters = letters
        self._retry = retry
        self._metrics = metrics
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._is_unfinished = False

    @property
    def buffered_rows(self) -> int:
        """Return how many rows wait for the next flush."""
        return sum(progress.buffered_rows for progress in self._partitions.values())

    async def flush(self) -> None:
        """Write what is buffered; on return every offset that was applied before is in every sink.

        Raises:
            SinkFailedError: a sink did not take it; nothing more may be committed.
        """
        async with self._one_at_a_time:
            taken = [
                (progress, progress.applied_offset, flush)
                for progress in self._partitions.values()
                if (flush := progress.take()) is not None
            ]
            if not taken:
                return
            if self._is_unfinished:
                raise SinkFailedError(
                    "An earlier flush was not finished, and what it took is no longer in memory.",
                    hint="Nothing was committed past it: mend its cause and start the worker again.",
                )
            self._is_unfinished = True
            flushes = [flush for _, _, flush in taken]
            started_s = self._clock.monotonic_s()
            report = await self._retry("lake", lambda: self._lake.write(flushes))
            letters = [letter for flush in flushes for letter in flush.letters]
            if letters:
                await self._retry("dead_letters", lambda: self._letters.write(letters))
            for progress, applied_offset, _ in taken:
                progress.flushed_offset = applied_offset  # not what was read while it is halted: letters are missing
            self._is_unfinished = False
            self._metrics.flushed(report, self._clock.monotonic_s() - started_s)
            self._metrics.buffered_rows.set(self.buffered_rows)

    @property
    def buffered_bytes(self) -> int:
        """Return how many bytes of records wait for the next flush."""
        return sum(progress.buffered_bytes for progress in self._partitions.values())

    async def wait_for_space(self, rows_max: int, bytes_max: int) -> None:
        """Wait until fewer rows and bytes than these are buffered, flushing if nobody else does."""
        while self.buffered_rows >= rows_max or self.buffered_bytes >= bytes_max:
            await self.flush()
