"""The composition root of the worker process: settings in, a running worker out."""

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faust
from prometheus_client import CollectorRegistry, ProcessCollector

from config.errors import ShopstreamError
from config.settings import Settings
from feature_repo.erasing import ErasedStates
from feature_repo.fence import FenceStore
from feature_repo.opening import apply_definitions, open_feature_store
from feature_repo.partition_owners import PartitionOwners
from feature_repo.states import StateStore
from schemas.codec import Codec
from schemas.event import CLICKS_TOPIC, DEAD_LETTERS_TOPIC, EVENT_TOPICS
from schemas.privacy import Pseudonyms
from schemas.registry import RegistryClient, register_own_schemas
from schemas.topics import check_group_rights, check_rights, describe_topics, verify_topics
from sinks.dead_letters import DeadLetterTopic
from sinks.lake import LakeSink
from sinks.lake_root import lake_of
from sinks.log_moves import read_log_moves
from sinks.online import OnlineSink
from streams.adapters import CodecDecoder, FeastStates, ThreadedLake, ThreadedLetters
from streams.clock import SystemClock
from streams.credentials import refusal
from streams.endpoint import MetricsEndpoint
from streams.erasures import KnownErasures
from streams.faust_app import FeatureApp
from streams.gate_alerts import GateAlerts
from streams.gate_sources import worker_gates
from streams.kafka_offsets import KafkaOffsets
from streams.log_watch import LogWatch
from streams.loop import BatchLoop, Sinks
from streams.metrics import WorkerMetrics
from streams.observing import workers_folder
from streams.ownership import PartitionOwner
from streams.ports import Decoder, Gatekeeper, Lake, Letters
from streams.privacy import LakeWithoutOriginals, LettersWithoutOriginals, PseudonymDecoder
from streams.quarantine import PROBING_COMMAND, ProbingQuarantine
from streams.watching import DriftWatch

if TYPE_CHECKING:
    from feast import FeatureStore


def build_app(
    settings: Settings,
    *,
    debug: bool = False,
    through: Callable[[Sinks], Sinks] = lambda sinks: sinks,
    probing: Sequence[str] = PROBING_COMMAND,
    gatekeeper: Gatekeeper | None = None,
) -> FeatureApp:
    """Wire a worker together; nothing is consumed before it is started.

    Args:
        debug: log expected failures with their traceback, too.
        through: what the worker sees of its sinks, for whoever injects faults between the two.
        probing: the command that decodes suspicious records, for whoever injects deadly ones.
        gatekeeper: says when a topic must halt; the gates of the settings if None.

    Raises:
        SettingsError: a service has no address, the key of earlier erasures is not set, or a critical field of the
            gates does not exist.
        TopicError: an event topic is missing, or keeps the producers' timestamps.
        BrokerUnavailableError, OnlineStoreError, RegistryError: a service does not answer.
        AccessDeniedError: a service does not let us in, or not do what a worker does.
    """
    settings.require("kafka", "registry", "redis")
    if not debug:
        _log_expected_failures_in_a_sentence(settings)
    topics = describe_topics(settings)
    verify_topics(topics)
    check_rights(settings, topics, {**dict.fromkeys(EVENT_TOPICS, "READ"), DEAD_LETTERS_TOPIC: "WRITE"})
    check_group_rights(settings)
    schema_registry, store, fences = _connect(settings)
    clock = SystemClock()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics = WorkerMetrics(registry)
    codec = Codec(
        schema_registry,
        limits=settings.events,
        unknown_id_ttl_s=settings.registry.unknown_id_ttl_s,
        clock_ms=clock.now_ms,
    )
    decoder: Decoder = CodecDecoder(codec)
    interval_ms = settings.lake.feature_log_interval_ms
    lake: Lake = ThreadedLake(LakeSink(lake_of(settings), feature_log_interval_ms=interval_ms))
    letters: Letters = ThreadedLetters(DeadLetterTopic(settings))
    pseudonyms = Pseudonyms.in_use(settings.privacy)
    if pseudonyms is not None:
        decoder = PseudonymDecoder(decoder, pseudonyms)
        lake, letters = LakeWithoutOriginals(lake), LettersWithoutOriginals(letters)
    online = FeastStates(StateStore(store), OnlineSink(store))
    sinks = through(Sinks(online=online, fences=fences, lake=lake, letters=letters))
    erasures = KnownErasures(lake_of(settings), ErasedStates(store), Pseudonyms.with_key_of(settings.privacy))
    erasures.check()
    offsets = KafkaOffsets(settings, lambda: app.batch_consumer)
    interval_s = settings.worker.log_check_interval_s
    log_watch = LogWatch(offsets, interval_s=interval_s, clock=clock, fences=fences)
    quarantine = ProbingQuarantine(
        schema_registry.fetch, limits=settings.events, settings=settings.worker, command=probing
    )
    alerts = GateAlerts.from_settings(settings)
    if gatekeeper is None:
        gatekeeper = worker_gates(
            settings, store,
            worker=f"{os.uname().nodename}-{os.getpid()}", topics=topics, fetch=schema_registry.fetch,
            metrics=metrics, clock=clock, alerts=() if alerts is None else (alerts,),
        )  # fmt: skip
    loop = BatchLoop(
        settings.worker, decoder, sinks, metrics, clock,
        log_watch=log_watch, quarantine=quarantine, erasures=erasures, gatekeeper=gatekeeper,
    )  # fmt: skip
    owner = PartitionOwner(
        loop,
        settings.worker,
        offsets=offsets,
        fences=sinks.fences,
        metrics=metrics,
        clock=clock,
        owners=PartitionOwners.beside(store),
        log_watch=log_watch,
        moves=lambda: asyncio.to_thread(read_log_moves, lake_of(settings)),
    )
    endpoint = MetricsEndpoint(settings.worker, registry, workers_folder(settings))
    drift_watch = DriftWatch(settings) if settings.drift.is_watched else None
    # the offsets above ask it for its consumer, once it runs
    app = FeatureApp(settings, owner, endpoint, drift_watch, alerts)
    return app


def _connect(settings: Settings) -> "tuple[RegistryClient, FeatureStore, FenceStore]":
    """Open what a worker needs, and see that each service answers, and us; what is open is closed if one does not."""
    with contextlib.ExitStack() as undo:
        registry = RegistryClient(settings.registry)
        undo.callback(registry.close)
        register_own_schemas(registry, (DEAD_LETTERS_TOPIC,))  # we are the producer of those
        apply_definitions(settings)
        store = open_feature_store(settings)
        undo.callback(store.provider.online_store.connections(store.config.online_store).close_blocking)
        fences = FenceStore.beside(store)
        fences.read_blocking(CLICKS_TOPIC)
        undo.pop_all()
    return registry, store, fences


@dataclass(frozen=True)
class WorkerResult:
    """How a worker ended.

    Attributes:
        exit_code: 0 after an orderly stop, else 1.
        records: what it read, by outcome.
        reason: why it stopped by itself; empty after a signal.
    """

    exit_code: int
    records: dict[str, int]
    reason: str

    def sentence(self) -> str:
        """Say it in one line."""
        counts = ", ".join(f"{outcome} {count:,}" for outcome, count in self.records.items()) or "no record"
        return f"Stopped: {(self.reason or 'as asked').rstrip('.')}. Read: {counts}."


def run_worker(settings: Settings, *, loglevel: str = "info", debug: bool = False) -> WorkerResult:
    """Run a worker until SIGTERM, SIGINT or a failure.

    Raises:
        ShopstreamError: it could not be started.
    """
    app = build_app(settings, debug=debug)
    worker = faust.Worker(app, loglevel=loglevel, redirect_stdouts=False)
    try:
        worker.execute_from_commandline()
    except SystemExit as request:
        code = request.code
    failure = app.ownership.failure or refusal(app.crash_reason, settings.kafka)
    records: Counter[str] = Counter()
    for family in app.ownership.metrics.records.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                records[sample.labels["outcome"]] += int(sample.value)
    if failure is not None:
        return WorkerResult(1, dict(records), str(failure))
    return WorkerResult(0, dict(records), "") if not code else WorkerResult(1, dict(records), "it crashed, see above")


def _log_expected_failures_in_a_sentence(settings: Settings) -> None:
    """Leave the traceback of our own errors, and of refusals, out of the log: the sentence says what is wrong."""
    create = logging.getLogRecordFactory()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = create(*args, **kwargs)
        error = made.exc_info[1] if made.exc_info else None
        if isinstance(error, ShopstreamError | asyncio.CancelledError) or refusal(error, settings.kafka):
            made.exc_info = None
        return made

    logging.setLogRecordFactory(record)
