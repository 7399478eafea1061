"""`shopstream events`: what is on the topics, decoded."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from cli.context import invocation, progress_console
from cli.interrupts import stop_requests
from config.errors import ShopstreamError
from config.settings import Settings
from schemas.codec import Codec
from schemas.dead_letter import DeadLetter
from schemas.encoder import read_letter
from schemas.errors import EncodeError
from schemas.event import DEAD_LETTERS_TOPIC, EVENT_TOPICS, Record
from schemas.kafka_client import access_error, broker_unavailable, client_settings
from schemas.privacy import Pseudonyms, without_quotes
from schemas.registry import RegistryClient
from schemas.topics import TopicInfo, describe_topics

_TOPICS = (*EVENT_TOPICS, DEAD_LETTERS_TOPIC)
_RECORDS_AT_ONCE = 500
_POLL_S = 0.2

app = typer.Typer(no_args_is_help=True, help="What is on the topics.")


@app.callback()
def events() -> None:
    """What is on the topics."""


@app.command()
def tail(
    ctx: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC", help=f"One of {', '.join(_TOPICS)} \\[default: both event topics]."),
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Only this user's records.")] = None,
    max_count: Annotated[int | None, typer.Option("--max", min=1, help="Stop after so many records.")] = None,
    *,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with the oldest record, not with the next.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line and record.")] = False,
) -> None:
    """Show records as they arrive, decoded; those that cannot be read with the reason. Ctrl-C ends it.

    It joins no consumer group and commits nothing. With --json each line of stdout is one JSON object: `topic`,
    `partition`, `offset`, `append_time_ms`, `schema_id`, and either `event` or `dead_letter`.
    """
    topics = tuple(dict.fromkeys(topic or EVENT_TOPICS))
    unknown = [name for name in topics if name not in _TOPICS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(_TOPICS)}", param_hint="--topic")
    settings = invocation(ctx).settings().require("kafka", "registry")
    infos = describe_topics(settings)
    reading = _Reading(settings, infos)
    wanted = None if user is None else reading.shown_id(user)
    out = _Output(as_json=as_json)
    with stop_requests() as stopped, _quiet_when_nobody_reads():
        for records in _records(settings, [infos[name] for name in topics], stopped, from_beginning=from_beginning):
            for seen in reading.read(records):
                if wanted is not None and seen.user_id != wanted:
                    continue
                out.show(seen)
                if out.count == max_count:
                    break
            sys.stdout.flush()
            if out.count == max_count:
                break
    if not as_json:
        progress_console().print(f"{out.count:,} records, {out.letter_count:,} of them dead letters", style="dim")


@dataclass(frozen=True, slots=True)
class _Seen:
    """One record and what it says: an event, or why it is none."""

    record: Record
    user_id: str
    schema_id: int | None
    event: Mapping[str, Any] | None
    letter: Mapping[str, Any] | None

    def payload(self) -> dict[str, Any]:
        record = self.record
        return {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "append_time_ms": record.append_time_ms,
            "schema_id": self.schema_id,
            **({"dead_letter": self.letter} if self.event is None else {"event": self.event}),
        }


class _Reading:
    """Records of any of our topics to what they say."""

    def __init__(self, settings: Settings, infos: Mapping[str, TopicInfo]) -> None:
        self._infos = infos
        self._pseudonyms = Pseudonyms.in_use(settings.privacy)
        self._codec = Codec(
            RegistryClient(settings.registry),
            limits=settings.events,
            unknown_id_ttl_s=settings.registry.unknown_id_ttl_s,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )

    def read(self, records: Sequence[Record]) -> Iterator[_Seen]:
        events = [record for record in records if record.topic != DEAD_LETTERS_TOPIC]
        self._codec.resolve(self._codec.unresolved(events))
        for record in records:
            yield _published(record) if record.topic == DEAD_LETTERS_TOPIC else self._decoded(record)

    def shown_id(self, user_id: str) -> str:
        """Return the id as it is shown: its pseudonym where ids are pseudonymised."""
        return user_id if self._pseudonyms is None else self._pseudonyms.of(user_id)

    def _decoded(self, record: Record) -> _Seen:
        decoded = self._codec.decode(record, self._infos[record.topic].partition_count)
        if isinstance(decoded, DeadLetter):
            detail = (decoded if self._pseudonyms is None else without_quotes(decoded)).detail
            letter = {"stage": decoded.stage.value, "reason": decoded.reason.value, "detail": detail}
            return _Seen(record, self.shown_id(_text(record.key)), decoded.schema_id, None, letter)
        user_id = self.shown_id(decoded.event.user_id)
        fields = {name: value for name, value in msgspec.structs.asdict(decoded.event).items() if value is not None}
        return _Seen(record, user_id, decoded.schema_id, fields | {"user_id": user_id}, None)


def _published(record: Record) -> _Seen:
    """Read a record of the dead letter topic."""
    try:
        published = read_letter(record.value or b"")
    except EncodeError as error:
        return _Seen(record, _text(record.key), None, None, {"reason": "undecodable", "detail": error.message})
    fields = msgspec.structs.asdict(published.letter)
    key, schema_id = fields.pop("key"), fields.pop("schema_id")
    del fields["value"], fields["dropped_bytes"]
    sizes = {"value_size_bytes": published.value_size_bytes, "value_sha256": published.value_sha256}
    return _Seen(record, _text(key), schema_id, None, {**fields, **sizes})


def _text(key: bytes | None) -> str:
    return (key or b"").decode(errors="replace")


class _Output:
    """Prints each record as one line."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(soft_wrap=True, highlight=False)
        self.count = 0
        self.letter_count = 0

    def show(self, seen: _Seen) -> None:
        self.count += 1
        self.letter_count += seen.event is None
        if self._as_json:
            sys.stdout.write(msgspec.json.encode(seen.payload()).decode() + "\n")
        else:
            self._console.print(_line(seen))


def _line(seen: _Seen) -> Text:
    record = seen.record
    moment = datetime.fromtimestamp(record.append_time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    line = Text.assemble((moment, "dim"), " ", (f"{record.topic}[{record.partition}]@{record.offset}", "cyan"), " ")
    if seen.event is None:
        letter = seen.letter or {}
        origin = f"{letter['topic']}[{letter['partition']}]@{letter['offset']} " if "topic" in letter else ""
        return line.append(f"{origin}dead letter, {letter['reason']}: {letter['detail']}", "red")
    rest = {name: value for name, value in seen.event.items() if name not in {"kind", "user_id"}}
    line.append(f"{seen.event['user_id']} ", "bold").append(f"{seen.event['kind']} ", "green")
    return line.append(" ".join(f"{name}={value}" for name, value in rest.items()))


def _records(
    settings: Settings, topics: Sequence[TopicInfo], stopped: Callable[[], bool], *, from_beginning: bool
) -> Iterator[list[Record]]:
    """Yield batches of records until `stopped`; without a consumer group, so nothing is rebalanced or committed."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    consumer = Consumer(
        client_settings(settings.kafka)
        | {
            "group.id": "shopstream-events-tail",  # the client demands a name; it is never joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 20,
        }
    )
    try:
        positions = []
        for info in topics:
            for partition in range(info.partition_count):
                bounds = TopicPartition(info.topic, partition)
                oldest, end = consumer.get_watermark_offsets(bounds, timeout=settings.kafka.timeout_s)
                positions.append(TopicPartition(info.topic, partition, oldest if from_beginning else end))
        consumer.assign(positions)
        progress_console().print(f"Reading {len(positions)} partitions; Ctrl-C ends it.", style="dim")
        while not stopped():
            messages = consumer.consume(_RECORDS_AT_ONCE, timeout=_POLL_S)
            failed = [message.error() for message in messages if message.error() is not None]
            if failed:
                raise _failure(settings, failed[0])
            yield [_record(message) for message in messages]
    except KafkaException as error:
        raise _failure(settings, error.args[0]) from error
    finally:
        consumer.close()


def _failure(settings: Settings, error: Any) -> ShopstreamError:
    refusal = access_error(error, settings.kafka, "to read the topics")
    return refusal or broker_unavailable(settings.kafka, error.str())


def _record(message: Any) -> Record:
    _, append_time_ms = message.timestamp()
    key, value = message.key(), message.value()
    return Record(message.topic(), message.partition(), message.offset(), append_time_ms, key, value)


@contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """End without a complaint when the reader of our output, `head` for example, has gone."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at exit
