"""Trying letters in another process first, where decoding might end the one that does it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from config.settings import Settings
from schemas.event import Record
from streams.quarantine import ProbingQuarantine

Probe = Callable[[Sequence[Record]], Mapping[int, str]]


def probe_of(settings: Settings, fetch: Callable[[int], str]) -> Probe:
    """Return what finds the records that end the process which decodes them: by their place, and how they end it.

    Args:
        fetch: returns the text of a schema by id; raises UnknownSchemaIdError.
    """
    quarantine = ProbingQuarantine(fetch, limits=settings.events, settings=settings.worker)

    def probe(records: Sequence[Record]) -> Mapping[int, str]:
        # letters of several partitions may have one offset; their place stands for it
        numbered = [replace(record, offset=place) for place, record in enumerate(records)]
        deadly: dict[int, str] = {}
        done = 0
        while done < len(numbered):
            found, tried = asyncio.run(quarantine.culprits(numbered[done:], partition_count=1))
            deadly.update(found)
            done += tried
        return deadly

    return probe
