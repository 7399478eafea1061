"""Opens what a move to a new log epoch needs, over the settings."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from config.settings import Settings
from replay.log_move_plan import MovePorts
from schemas.topics import TopicInfo


@asynccontextmanager
async def opened_log_move(settings: Settings, topics: Mapping[str, TopicInfo]) -> AsyncIterator[MovePorts]:
    """Open the stores of the settings.

    Args:
        topics: the event topics as they are.

    Raises:
        SettingsError: no Redis or no Kafka is set.
        BrokerUnavailableError: Kafka does not answer.
    """
    from feature_repo.fence import FenceStore
    from feature_repo.opening import open_feature_store
    from feature_repo.replacing import StateReplacing
    from replay.group_watch import GroupWatch
    from replay.repair_opening import repair_ports
    from streams.observing import GroupLags

    watch, lags = GroupWatch(settings, topics), GroupLags(settings)
    store = open_feature_store(settings)
    try:
        yield MovePorts(
            repair=repair_ports(settings, store),
            fences=FenceStore.beside(store),
            states=StateReplacing(store),
            is_worker_live=watch.is_live,
            ends=lambda topic: {lag.tp.partition: lag.produced for lag in lags.read() if lag.tp.topic == topic},
            future_tolerance_ms=settings.events.future_tolerance_ms,
        )
    finally:
        await store.close()
