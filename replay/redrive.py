"""Publishing dead letters again: each at most once, whatever is killed when.

    with RedriveLog(lake) as log:                   one at a time
        recover      intents of a killed run: look in the topic whether their records are there; note where
        per chunk    read the bytes, resolve their schemas, plan
                     write the intents -> publish, each record with its letter's position in a header -> note where

Only letters that existed when the run began are handled. A record that fails again is a new letter, for a later run.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, Protocol

from replay.dead_letter_fates import Fate, Told, read_fates
from replay.dead_letter_selection import RedriveOptions, select
from replay.letter_decoding import LetterDecoder
from replay.redrive_planning import Verdict, plan, sift
from replay.redrive_report import RedriveReport
from schemas.dead_letter import Reason
from schemas.topics import TopicInfo
from sinks.erasures import Tombstones, log_of
from sinks.errors import NotRedrivenError
from sinks.lake_root import Lake
from sinks.letter_reads import Letter, LetterFilter, LetterHead, LogPosition, letter_heads, letters
from sinks.redrives import Attempt, RedriveLog, read_attempts
from sinks.republishing import Outgoing, Stored
from streams.ports import Clock

CHUNK_LETTERS: Final = 1_000
CHUNK_BYTES: Final = 64_000_000
FLUSH_MARGIN_S: Final = 5.0


class EventTopics(Protocol):
    """Where letters are published again."""

    def ends(self, topic: str, partitions: Collection[int]) -> Mapping[int, int]:
        """Return the next offset of some partitions."""
        ...

    def publish(self, records: Sequence[Outgoing]) -> Stored:
        """Publish records; blocking."""
        ...

    def find(
        self, topic: str, searches: Mapping[int, int], letters: Collection[LogPosition]
    ) -> Mapping[LogPosition, tuple[int, int]]:
        """Return partition and offset of the records of letters that are there."""
        ...


class Redrive:
    """Publishes letters again.

    Args:
        lake: folder of the lake.
        topics: the event topics as they are now, by name.
        unknown_id_ttl_s: how long workers believe that a schema is unknown.
        flush_interval_s: how long a worker may know of a letter that the lake lacks.
        tombstones: reads whose earlier events must not come back; blocking.
        pause: waits for so many seconds.
        progress: told a line per step.
    """

    def __init__(
        self,
        lake: Lake,
        events: EventTopics,
        decoder: LetterDecoder,
        topics: Mapping[str, TopicInfo],
        clock: Clock,
        *,
        unknown_id_ttl_s: float,
        flush_interval_s: float,
        tombstones: Callable[[], Tombstones] = Tombstones,
        pause: Callable[[float], None],
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._lake = lake
        self._events = events
        self._decoder = decoder
        self._topics = topics
        self._clock = clock
        self._memory_s = unknown_id_ttl_s
        self._unflushed_s = flush_interval_s + FLUSH_MARGIN_S
        self._tombstones = tombstones
        self._pause = pause
        self._progress = progress

    def dry_run(self, options: RedriveOptions) -> RedriveReport:
        """Say what `run` would do; nothing is published and nothing written.

        Raises:
            NoSuchLetterError: a letter that was named is not there.
            BrokerUnavailableError, RegistryUnavailableError, LakeUnavailableError: a service does not answer.
        """
        report = RedriveReport(dry_run=True)
        attempts = read_attempts(self._lake)
        stored = self._recovered(attempts)
        report.recovered = len(stored)
        attempts.update((attempt.letter, attempt) for attempt in stored)
        for chunk in _chunks(self._sifted(self._selected(options, attempts), options, attempts, report)):
            self._read(chunk, report)
        return report

    def run(self, log: RedriveLog, options: RedriveOptions) -> RedriveReport:
        """Publish what can be read now; blocking. To be repeated after any failure.

        Raises:
            NoSuchLetterError: a letter that was named is not there.
            NotRedrivenError: Kafka did not store some.
            RedriveRunningError: another redrive took over.
            BrokerUnavailableError, RegistryUnavailableError, LakeUnavailableError: a service does not answer.
        """
        report = RedriveReport(dry_run=False)
        stored = self._recovered(log.attempts)
        log.note(stored)
        report.recovered = len(stored)
        selected = self._selected(options, log.attempts)
        self._adopt(log, selected)
        for chunk in _chunks(self._sifted(selected, options, log.attempts, report)):
            outgoing = self._read(chunk, report)
            if outgoing:
                self._wait_until_schemas_are_known([told.head for told, _ in outgoing])
                report.published += self._publish(log, outgoing)
                self._progress(f"{report.published:,} letters published again")
        return report

    def _recovered(self, attempts: Mapping[LogPosition, Attempt]) -> list[Attempt]:
        """Look in the topics for what a run that was killed had published without noting it."""
        now_ms = self._clock.now_ms()
        recovered: list[Attempt] = []
        for topic, info in self._topics.items():
            unsure = {
                letter: attempt
                for letter, attempt in attempts.items()
                if letter.topic == topic and attempt.target_offset is None and attempt.target_topic_id == info.topic_id
            }
            if not unsure:
                continue
            self._progress(f"looking in {topic} for {len(unsure):,} letters that an earlier redrive may have published")
            searches: dict[int, int] = {}
            for attempt in unsure.values():
                first = searches.get(attempt.target_partition, attempt.search_offset)
                searches[attempt.target_partition] = min(first, attempt.search_offset)
            for letter, (partition, offset) in self._events.find(topic, searches, unsure).items():
                recovered.append(unsure[letter].stored_at(partition, offset, now_ms))
        return recovered

    def _selected(self, options: RedriveOptions, attempts: Mapping[LogPosition, Attempt]) -> list[Told]:
        return read_fates(self._lake, select(self._lake, options), attempts)

    def _adopt(self, log: RedriveLog, selected: Sequence[Told]) -> None:
        """Note letters that were applied where they lie, so that their users are rebuilt with the others.

        Live had passed them when they were read again: the lake got such an event, and the user's state did not.
        """
        now_ms = self._clock.now_ms()
        log.note(
            [
                Attempt(
                    letter=told.head.position,
                    letter_epoch=told.head.log_epoch,
                    reason=told.head.reason,
                    number=told.attempts_before,
                    origin=told.origin,
                    target_topic_id=told.head.position.topic_id,
                    target_partition=told.head.partition,
                    search_offset=told.head.offset,
                    redriven_ms=now_ms,
                    target_offset=told.head.offset,
                )
                for told in selected
                if told.fate is Fate.APPLIED and (told.attempt is None or told.attempt.target is None)
            ]
        )

    def _sifted(
        self,
        selected: Sequence[Told],
        options: RedriveOptions,
        attempts: Mapping[LogPosition, Attempt],
        report: RedriveReport,
    ) -> list[Told]:
        """Return the letters whose bytes must be looked at; the others are counted."""
        current = {info.topic_id for info in self._topics.values()}
        candidates, others = sift(
            selected,
            attempts_max=options.attempts_max,
            named=frozenset(told.head.position for told in selected) if options.named else frozenset(),
            lost_logs=frozenset({attempt.target_topic_id for attempt in attempts.values()} - current),
        )
        for planned in others:
            report.add(planned)
        return candidates

    def _read(self, chunk: Sequence[Told], report: RedriveReport) -> list[tuple[Told, Outgoing]]:
        """Decode letters again; return what to publish."""
        told = {each.head.position: each for each in chunk}
        whole = letters(self._lake, [each.head for each in chunk])
        self._decoder.look(whole)
        counts = {topic: info.partition_count for topic, info in self._topics.items()}
        outgoing = []
        tombstones = self._tombstones()
        planned_all = plan(
            whole, self._decoder, counts, self._clock.now_ms(), lambda user, letter: _covers(tombstones, user, letter)
        )
        for letter, planned in zip(whole, planned_all, strict=True):
            report.add(planned)
            if planned.verdict is Verdict.REDRIVE and letter.value is not None:
                each = told[letter.head.position]
                record = Outgoing(
                    each.head.position, each.attempts_before + 1, planned.partition, planned.key, letter.value
                )
                outgoing.append((each, record))
        return outgoing

    def _publish(self, log: RedriveLog, outgoing: Sequence[tuple[Told, Outgoing]]) -> int:
        """Write down what is intended, publish it, and note where it is; return how many letters."""
        partitions: dict[str, set[int]] = {}
        for _, record in outgoing:
            partitions.setdefault(record.letter.topic, set()).add(record.partition)
        ends = {topic: self._events.ends(topic, numbers) for topic, numbers in partitions.items()}
        now_ms = self._clock.now_ms()
        attempts = [
            Attempt(
                letter=record.letter,
                letter_epoch=told.head.log_epoch,
                reason=told.head.reason,
                number=record.attempt,
                origin=told.origin,
                target_topic_id=self._topics[record.letter.topic].topic_id,
                target_partition=record.partition,
                search_offset=ends[record.letter.topic][record.partition],
                redriven_ms=now_ms,
            )
            for told, record in outgoing
        ]
        log.intend(attempts)
        stored = self._events.publish([record for _, record in outgoing])
        now_ms = self._clock.now_ms()
        offsets = stored.offsets
        log.note(
            [
                attempt.stored_at(attempt.target_partition, offsets[attempt.letter], now_ms)
                for attempt in attempts
                if attempt.letter in offsets
            ]
        )
        missing = len(outgoing) - len(offsets)
        if missing:
            raise NotRedrivenError(
                f"Kafka did not say that it has stored {missing} of {len(outgoing)} letters again "
                f"({stored.error or 'no reason was given'}).",
                hint="Run `shopstream dlq redrive` again: it looks first which of them are there.",
            )
        return len(offsets)

    def _wait_until_schemas_are_known(self, heads: Sequence[LetterHead]) -> None:
        """Wait while a worker may still believe that one of the schemas is unknown, and would refuse it once more."""
        ids = {head.schema_id for head in heads if head.reason == Reason.UNKNOWN_SCHEMA and head.schema_id is not None}
        if not ids:
            return
        seen_ms: dict[int, int] = {}
        for head in letter_heads(self._lake, LetterFilter(reason=Reason.UNKNOWN_SCHEMA)):
            if head.schema_id in ids:
                seen_ms[head.schema_id] = max(head.first_seen_ms, seen_ms.get(head.schema_id, 0))
        # A worker asked at the latest when it made the newest letter, which may not be in the lake yet; and not after
        # the schema was registered, which was before the registry told us of it.
        known_ms = max(
            min(self._decoder.known_since_ms(each) or 0, seen_ms.get(each, 0) + round(1000 * self._unflushed_s))
            for each in ids
        )
        until_ms = known_ms + round(1000 * self._memory_s)
        left_s = (until_ms - self._clock.now_ms()) / 1000
        if left_s > 0:
            self._progress(f"waiting {left_s:.0f} s: for so long workers may believe that a schema is unknown")
            self._pause(left_s)


def _chunks(letters_told: Sequence[Told]) -> Iterator[list[Told]]:
    """Divide letters so that the bytes of a chunk fit into memory."""
    chunk: list[Told] = []
    size = 0
    for told in letters_told:
        bytes_more = told.head.value_size or 0
        if chunk and (len(chunk) == CHUNK_LETTERS or size + bytes_more > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(told)
        size += bytes_more
    if chunk:
        yield chunk


def _covers(tombstones: Tombstones, user_id: str, letter: Letter) -> bool:
    head = letter.head
    return tombstones.covers(
        user_id, head.topic, head.log_epoch, head.partition, head.offset
    ) or tombstones.covers_letter(letter.key, head.offset, log_of(head.topic, head.log_epoch, head.partition))
