"""Opens what repairs and rebuilds need, over the settings."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from config.settings import Settings
from replay.rebuild import Rebuild
from replay.repair import RepairPorts
from sinks.lake_root import lake_of
from sinks.leases import reading


@asynccontextmanager
async def opened_rebuild(
    settings: Settings, source: str = "lake", *, rate: float | None = None
) -> AsyncIterator[Rebuild]:
    """Open the stores of the settings for a rebuild.

    Args:
        source: `lake`, or `kafka` as far as live has applied it.
        rate: most events folded per second; None for no limit.

    Raises:
        SettingsError: no Redis, no Kafka or no registry is set.
    """
    from feature_repo.fence import FenceStore

    async with opened_repair_ports(settings, source, rate=rate) as (ports, store):
        fences = FenceStore.beside(store)
        yield Rebuild(ports, fences, future_tolerance_ms=settings.events.future_tolerance_ms)


@asynccontextmanager
async def opened_repair_ports(
    settings: Settings, source: str = "lake", *, rate: float | None = None
) -> AsyncIterator[tuple[RepairPorts, Any]]:
    """Open what a repair needs, and the feature store beneath it.

    Args:
        source: `lake`, or `kafka` as far as live has applied it.
        rate: most events folded per second; None for no limit.

    Raises:
        SettingsError: no Redis, no Kafka or no registry is set.
    """
    from feature_repo.fence import FenceStore
    from feature_repo.opening import open_feature_store
    from replay.applied_source import AppliedSource
    from replay.kafka_source import KafkaSource
    from replay.pace import Pace, PacedSource
    from schemas.registry import RegistryClient

    with ExitStack() as clients:
        store = open_feature_store(settings)
        try:
            clients.enter_context(reading(lake_of(settings), "replay --into online"))
            registry = RegistryClient(settings.require("kafka", "registry").registry)
            clients.callback(registry.close)
            ports = replace(
                repair_ports(settings, store),
                open_tail=lambda log, offset: KafkaSource(settings, registry).tail(log, offset),
            )
            if source == "kafka":
                read_fences = FenceStore.beside(store).read_blocking
                ports = replace(ports, open_source=lambda: AppliedSource(KafkaSource(settings, registry), read_fences))
            if rate is not None:
                pace, unpaced = Pace(rate), ports.events
                clients.callback(pace.stop)
                ports = replace(ports, open_source=lambda: PacedSource(unpaced(), pace))
            yield ports, store
        finally:
            await store.close()


def repair_ports(settings: Settings, store: Any) -> RepairPorts:
    """Return what a repair needs, over an open feature store.

    While a topic is halted the lake holds events that are not to be applied yet: it is read as far as live has come.
    """
    from feature_repo.erasing import ErasedStates
    from feature_repo.fence import Fence, FenceStore
    from feature_repo.states import StateStore
    from replay.applied_source import AppliedSource
    from replay.sources import LakeSource
    from schemas.privacy import Pseudonyms
    from sinks.online import OnlineSink
    from streams.adapters import FeastStates
    from streams.clock import SystemClock
    from streams.erasures import KnownErasures

    pseudonyms = Pseudonyms.with_key_of(settings.privacy)
    fences = FenceStore.beside(store)

    def halted(topic: str) -> dict[int, Fence]:
        return {number: fence for number, fence in fences.read_blocking(topic).items() if fence.is_halted}

    return RepairPorts(
        lake=lake_of(settings),
        open_source=lambda: AppliedSource(LakeSource(lake_of(settings)), halted),
        online=FeastStates(StateStore(store), OnlineSink(store)),
        fences=fences,
        clock=SystemClock(),
        tombstones=KnownErasures(lake_of(settings), ErasedStates(store), pseudonyms).read,
    )
