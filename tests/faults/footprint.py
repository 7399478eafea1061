"""All that a worker leaves outside of itself, to be compared before and after."""

import asyncio
from dataclasses import dataclass

from config.settings import Settings
from feature_repo.opening import open_feature_store
from feature_repo.states import StateStore
from schemas.event import EVENT_TOPICS
from sinks.tables import LAKE_TABLES
from streams.observing import GroupLags


@dataclass(frozen=True)
class Footprint:
    """What is stored.

    Attributes:
        states: by topic and user.
        table_versions: commits of each table of the lake.
        committed: offsets of the group, by topic and partition.
    """

    states: dict[tuple[str, str], bytes]
    table_versions: dict[str, int]
    committed: dict[tuple[str, int], int | None]

    def changes(self, later: "Footprint") -> list[str]:
        """Say what is different later; states by their users only."""
        found = []
        for name in ("states", "table_versions", "committed"):
            mine, its = getattr(self, name), getattr(later, name)
            for key in sorted(mine.keys() | its.keys()):
                if mine.get(key) != its.get(key):
                    told = "" if name == "states" else f": {mine.get(key)}, then {its.get(key)}"
                    found.append(f"{name} of {key}{told}")
        return found


def footprint(settings: Settings) -> Footprint:
    """Read it; whatever should be compared must stand still meanwhile."""
    from deltalake import DeltaTable

    versions = {
        name: DeltaTable(path).version()
        for name in LAKE_TABLES
        if DeltaTable.is_deltatable(path := str(settings.lake_path / name))
    }
    committed = {(lag.tp.topic, lag.tp.partition): lag.committed for lag in GroupLags(settings).read()}
    return Footprint(asyncio.run(_states(settings)), versions, committed)


async def _states(settings: Settings) -> dict[tuple[str, str], bytes]:
    from deltalake import DeltaTable

    table = DeltaTable(str(settings.lake_path / "raw_events")).to_pyarrow_dataset().to_table(columns=["user_id"])
    users = sorted(set(table.column("user_id").to_pylist()))
    store = open_feature_store(settings)
    try:
        reader = StateStore(store)
        return {
            (topic, user): stored.state
            for topic in EVENT_TOPICS
            for user, stored in (await reader.load(topic, users)).items()
        }
    finally:
        await store.close()
