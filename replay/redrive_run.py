"""A whole redrive, put together from the settings: publish, then finish."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing

from config.settings import Settings
from replay.dead_letter_selection import RedriveOptions
from replay.letter_decoding import LetterDecoder
from replay.letter_probing import probe_of
from replay.online_rebuild import OnlineRebuild
from replay.redrive import EventTopics, Redrive
from replay.redrive_finish import FinishReport, RedriveFinish
from replay.redrive_report import RedriveReport
from schemas.event import EVENT_TOPICS
from schemas.privacy import Pseudonyms
from schemas.registry import RegistryClient
from schemas.topics import TopicInfo, describe_topics
from sinks.erasures import Tombstones, read_tombstones
from sinks.lake_root import lake_of
from sinks.maintenance import exclusive
from sinks.redrives import RedriveLog
from sinks.republishing import EventLog
from streams.clock import SystemClock
from streams.observing import GroupLags
from streams.ports import TopicPartition

Progress = Callable[[str], None]


def redrive(
    settings: Settings,
    options: RedriveOptions,
    *,
    rebuild: bool,
    patience_s: float,
    progress: Progress,
    through: Callable[[EventTopics], EventTopics] = lambda events: events,
) -> tuple[RedriveReport, FinishReport | None]:
    """Publish letters again, and rebuild the users that they belong to. Blocking; to be repeated after any failure.

    Args:
        rebuild: wait for the worker, and rebuild; False leaves that to a later call.
        patience_s: how long to wait without any progress for the worker, and for the lake.
        progress: told a line per step.
        through: what is seen of Kafka, for whoever injects faults.

    Raises:
        ShopstreamError: a sentence, and what to do; nothing is published twice by the next call.
    """
    settings.require("kafka", "registry", *(["redis"] if rebuild and not options.dry_run else []))
    topics = {name: info for name, info in describe_topics(settings).items() if name in EVENT_TOPICS}
    clock = SystemClock()
    lake = lake_of(settings)
    with closing(RegistryClient(settings.registry)) as registry, closing(EventLog(settings)) as events:
        run = Redrive(
            lake,
            through(events),
            LetterDecoder(registry, settings.events, clock.now_ms, probe_of(settings, registry.fetch)),
            topics,
            clock,
            unknown_id_ttl_s=settings.registry.unknown_id_ttl_s,
            flush_interval_s=settings.worker.flush_interval_ms / 1000,
            tombstones=lambda: _tombstones(settings),
            pause=time.sleep,
            progress=progress,
        )
        if options.dry_run:
            return run.dry_run(options), None
        with RedriveLog(lake) as log:
            with exclusive(lake):  # an erasure must not pass between our look at it and what we publish
                report = run.run(log, options)
            return report, _finish(settings, topics, log, patience_s, progress) if rebuild else None


def _finish(
    settings: Settings, topics: Mapping[str, TopicInfo], log: RedriveLog, patience_s: float, progress: Progress
) -> FinishReport:
    lags = GroupLags(settings)

    def committed() -> dict[TopicPartition, int | None]:
        return {lag.tp: lag.committed for lag in lags.read()}

    with OnlineRebuild(settings, lambda: _tombstones(settings), wait_s=patience_s) as rebuild:
        finish = RedriveFinish(
            lake_of(settings),
            topics,
            committed,
            rebuild,
            SystemClock(),
            group_id=settings.worker.group_id,
            patience_s=patience_s,
            pause=time.sleep,
            progress=progress,
        )
        return finish.run(log)


def _tombstones(settings: Settings) -> Tombstones:
    return read_tombstones(lake_of(settings), Pseudonyms.with_key_of(settings.privacy))
