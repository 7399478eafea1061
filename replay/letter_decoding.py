"""Reading the bytes of dead letters again, with the schemas that the registry has now."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from config.settings import EventSettings
from replay.letter_probing import Probe
from schemas.codec import HEADER_BYTES, MAGIC, Codec, Decoded, SchemaSource
from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.decoding_plan import DecodingPlan, plan_for
from schemas.event import Record
from schemas.rules import Problem
from sinks.letter_reads import Letter

_FOR_EVER_S: Final = 10.0**9  # one run asks once for each id


class LetterDecoder:
    """Decodes letters as the worker would decode them now.

    Args:
        source: the schema registry.
        limits: what an event may be.
        clock_ms: wall clock, integer milliseconds UTC.
        probe: tries records that no process has decoded to the end yet, in another process.
    """

    def __init__(
        self,
        source: SchemaSource,
        limits: EventSettings,
        clock_ms: Callable[[], int],
        probe: Probe = lambda _: {},
    ) -> None:
        self._probe = probe
        self._deadly: dict[bytes, str] = {}
        self._source = _Remembering(source, clock_ms)
        self._codec = Codec(self._source, limits=limits, unknown_id_ttl_s=_FOR_EVER_S, clock_ms=clock_ms)
        self._bytes_max = limits.message_bytes_max
        self._plans: dict[int, DecodingPlan | Problem] = {}

    def look(self, letters: Sequence[Letter]) -> None:
        """Ask for the schemas of these letters, and find those that must not be decoded here; blocking.

        Raises:
            RegistryUnavailableError: the registry does not answer.
            ProbingError: the process that tries letters gave no answer.
        """
        # what came as far as `validate` was decoded by a worker, which lives
        untried = [letter.record() for letter in letters if letter.value and letter.head.stage != Stage.VALIDATE]
        if untried:
            self._deadly.update((untried[place].value or b"", how) for place, how in self._probe(untried).items())
        records = [letter.record() for letter in letters if letter.value not in self._deadly]
        self._codec.resolve(self._codec.unresolved(records))

    def known_since_ms(self, schema_id: int) -> int | None:
        """Return when the registry told us of a schema; None where it has none."""
        return self._source.fetched_ms.get(schema_id)

    def decode(self, record: Record, partition_count: int) -> Decoded | DeadLetter:
        """Decode and check one record, which was looked at."""
        how = self._deadly.get(record.value or b"")
        if how is not None:
            return self._codec.refused(record, how)
        return self._codec.decode(record, partition_count)

    def user_of(self, record: Record) -> str | None:
        """Return whose event a record holds, whatever else is wrong with it; None where that cannot be read."""
        fields = self.fields_of(record)
        user = fields.get("user_id") if isinstance(fields, Mapping) else None
        return user if isinstance(user, str) else None

    def fields_of(self, record: Record) -> Mapping[str, Any] | Problem | None:
        """Return what the bytes say, whether or not it is valid; None where there is no schema to read them by."""
        value = record.value
        if value in self._deadly:
            return Problem(Reason.UNDECODABLE, self._deadly[value])
        if not value or not HEADER_BYTES <= len(value) <= self._bytes_max or value[0] != MAGIC:
            return None
        schema_id = int.from_bytes(value[1:HEADER_BYTES], "big")
        text = self._source.texts.get(schema_id)
        if text is None:
            return None
        if schema_id not in self._plans:
            self._plans[schema_id] = plan_for(schema_id, text)
        plan = self._plans[schema_id]
        if isinstance(plan, Problem):
            return plan
        return plan.read(value[HEADER_BYTES:]) if plan.topic == record.topic else None


class _Remembering:
    """A schema source that keeps what it was told, and when."""

    def __init__(self, source: SchemaSource, clock_ms: Callable[[], int]) -> None:
        self._source = source
        self._clock_ms = clock_ms
        self.texts: dict[int, str] = {}
        self.fetched_ms: dict[int, int] = {}

    def fetch(self, schema_id: int) -> str:
        """Return the text of a schema."""
        if schema_id not in self.texts:
            self.texts[schema_id] = self._source.fetch(schema_id)
            self.fetched_ms[schema_id] = self._clock_ms()
        return self.texts[schema_id]
