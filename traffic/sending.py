"""From a source of events to the broker: broken ones are made on the way, every answer goes into the sent log."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from config.settings import Settings
from schemas.encoder import Encoder
from schemas.errors import UnknownSubjectError
from schemas.event import EVENT_TOPICS
from schemas.producer import EventProducer
from schemas.registry import RegistryClient, register_own_schemas
from schemas.topics import TopicInfo, check_rights, ensure_topics
from traffic.broken import BrokenWriter, foreign_schemas
from traffic.errors import SendError
from traffic.pacing import Pacer
from traffic.sent_log import SentLog
from traffic.timed import BrokenEvent, TimedEvent

_FLUSH_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class TrafficSummary:
    """The account of a run: sent_count = acknowledged_count + failed_count + unanswered_count.

    Attributes:
        unanswered_count: records of which the broker said nothing before the deadline; they may be stored or not.
        rate: events per second handed to the broker's client.
        seconds: from the start until the last was handed over.
        behind_ms_max: longest that an event was sent after its time; 0 at full speed.
    """

    sent_count: int
    acknowledged_count: int
    failed_count: int
    unanswered_count: int
    rate: float
    seconds: float
    behind_ms_max: float


class Sender:
    """Sends events and keeps the log of what was acknowledged.

    Args:
        producer: open; stays open.
        broken_writer: writes broken events; None where the source has none.
    """

    def __init__(self, producer: EventProducer, broken_writer: BrokenWriter | None, log: SentLog) -> None:
        self._producer = producer
        self._broken_writer = broken_writer
        self.log = log

    def run(
        self,
        events: Iterable[TimedEvent],
        pacer: Pacer,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> TrafficSummary:
        """Send all events when they are due, and wait until the broker has answered for each.

        Args:
            on_batch: told how many events have been sent so far, after each batch.
        """
        for batch in pacer.batches(events):
            for timed in batch:
                self._send(timed)
            on_batch(pacer.sent_count)
        unanswered = self._producer.flush(_FLUSH_TIMEOUT_S)
        return TrafficSummary(
            sent_count=pacer.sent_count,
            acknowledged_count=self.log.acknowledged_count,
            failed_count=self.log.failed_count,
            unanswered_count=unanswered,
            rate=pacer.rate,
            seconds=pacer.seconds,
            behind_ms_max=pacer.behind_ms_max,
        )

    def _send(self, timed: TimedEvent) -> None:
        payload = timed.payload
        noted = partial(self.log.note, timed)
        if not isinstance(payload, BrokenEvent):
            self._producer.send(timed.topic, payload, noted)
            return
        if self._broken_writer is None:
            raise SendError("A source yields broken events, but the sender was opened without them.")
        raw = self._broken_writer.write(timed.topic, payload)
        self._producer.send_raw(timed.topic, raw.key, raw.value, raw.partition, noted)


@contextmanager
def open_sender(settings: Settings, log: SentLog, *, broken: bool) -> Iterator[Sender]:
    """Connect to the broker. Creates the topics and registers our schemas where they are missing.

    Args:
        broken: the source may yield broken events; this registers the schemas that two of their kinds are written with,
            each under a subject of its own.

    Raises:
        SchemasError: the broker or the registry does not answer, or refuses; on leaving: not everything was stored.
    """
    topics = ensure_topics(settings)
    check_rights(settings, topics, dict.fromkeys(EVENT_TOPICS, "WRITE"))
    registry = RegistryClient(settings.registry)
    try:
        encoder = _registered_encoder(registry)
        broken_writer = _broken_writer(registry, encoder, topics) if broken else None
    finally:
        registry.close()
    with EventProducer(settings) as producer:
        yield Sender(producer, broken_writer, log)


def _registered_encoder(registry: RegistryClient) -> Encoder:
    try:
        return Encoder.registered(registry, EVENT_TOPICS)
    except UnknownSubjectError:
        return Encoder(register_own_schemas(registry, EVENT_TOPICS))


def _broken_writer(registry: RegistryClient, encoder: Encoder, topics: Mapping[str, TopicInfo]) -> BrokenWriter:
    ids = {schema.defect: registry.register(schema.subject, schema.text) for schema in foreign_schemas()}
    return BrokenWriter(encoder, ids, {name: topics[name].partition_count for name in EVENT_TOPICS})
