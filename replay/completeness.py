"""Whether a source reaches back far enough for complete values."""

from typing import Final

from replay.sources import EventSource
from sinks.erasures import Tombstones, log_of
from sinks.lake_reads import PartitionLog

COMPLETE_AFTER_MS: Final = 25 * 3_600_000  # 24 h windows, the session gap, lateness, rounding


def shortage(
    source: EventSource, log: PartitionLog, tombstones: Tombstones, *, now_ms: int, future_tolerance_ms: int
) -> str:
    """Say what is missing for complete values of a partition's users; empty if nothing is.

    A log that took over from another needs that one, too, unless it covers 25 hours by itself.

    Args:
        future_tolerance_ms: by how much an event time may pass the append time.

    Raises:
        LakeUnavailableError, BrokerUnavailableError: the source cannot be read.
    """
    reach, former = source.reach(log), source.former(log)
    first_offset = 0 if former is None else former.first_offset
    if reach is not None:
        complete_ms = reach.first_append_ms + future_tolerance_ms + COMPLETE_AFTER_MS
        if complete_ms <= now_ms:
            return ""
        erased_end = tombstones.reach(log_of(log.topic, log.log_epoch, log.partition))
        if reach.first_offset > max(first_offset, erased_end):  # what lies below that end may have been erased
            return (
                f"{log.topic}-{log.partition}: {_named(source)} begins at offset {reach.first_offset}, not at the "
                "beginning of the log; values from it are complete only when it covers 25 hours, in "
                f"{(complete_ms - now_ms) / 3_600_000:.1f} hours"
            )
    if former is not None:
        for earlier in former.logs:
            missing = shortage(
                former.source, earlier, tombstones, now_ms=now_ms, future_tolerance_ms=future_tolerance_ms
            )
            if missing:
                return missing
    return ""


def _named(source: EventSource) -> str:
    return "the lake" if source.name == "lake" else "what Kafka retains"
