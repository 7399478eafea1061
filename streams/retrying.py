"""One policy for every sink: try again with growing pauses, then stop the worker."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from config.errors import AccessDeniedError, ShopstreamError
from features.versioning import VersionConflictError
from streams.errors import SinkFailedError, StreamError
from streams.metrics import WorkerMetrics

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class AbandonedError(Exception):
    """The partitions were taken away while a sink was being retried; the batch is somebody else's now."""


class SinkRetry:
    """Repeats a failing call of a sink.

    Args:
        attempts: tries before giving up.
        abandoned: tells whether to stop trying at once, because the partitions are being given away.
        wait_max_s: longest pause between two tries.
    """

    def __init__(
        self, attempts: int, *, metrics: WorkerMetrics, abandoned: Callable[[], bool], wait_max_s: float = 5.0
    ) -> None:
        self._attempts = attempts
        self._metrics = metrics
        self._abandoned = abandoned
        self._wait = tenacity.wait_random_exponential(multiplier=0.05, max=wait_max_s)

    async def __call__(
        self, sink: str, call: Callable[[], Awaitable[Result]], *, attempts: int | None = None
    ) -> Result:
        """Call until it succeeds.

        Args:
            attempts: overrides the number of tries; 0 for as many as it takes.

        Raises:
            SinkFailedError: all tries failed.
            AbandonedError: the partitions are being given away.
            VersionConflictError, AccessDeniedError: at once, because a repetition of the same call cannot succeed.
        """
        limit = self._attempts if attempts is None else attempts

        def stop(state: tenacity.RetryCallState) -> bool:
            return self._abandoned() or bool(limit and state.attempt_number >= limit)

        def before_sleep(state: tenacity.RetryCallState) -> None:
            self._metrics.sink_retries.labels(sink).inc()
            error = state.outcome.exception() if state.outcome else None
            logger.warning("%s failed (try %d): %s", sink, state.attempt_number, error)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_worth_repeating),
            wait=self._wait,
            stop=stop,
            before_sleep=before_sleep,
            reraise=True,
        )
        try:
            return await retrying(call)
        except (VersionConflictError, StreamError, AccessDeniedError):
            raise
        except ShopstreamError as error:
            if self._abandoned():
                raise AbandonedError from error
            raise SinkFailedError(
                f"{sink} failed {limit} times; the last time: {error}",
                hint="Nothing was committed past it: mend it and start the worker again.",
            ) from error


def _worth_repeating(error: BaseException) -> bool:
    return isinstance(error, ShopstreamError) and not isinstance(
        error, VersionConflictError | StreamError | AccessDeniedError
    )
