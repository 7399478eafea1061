"""What gates ask beside the log: reference tables, writer schemas; and where their decisions are recorded."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from config.settings import Settings
from feature_repo.gate_store import GateStore
from quality.known_ids import KnownIds, id_hashes
from schemas.compatibility import fingerprints
from schemas.event import EVENT_TOPICS
from schemas.loading import own_schema
from schemas.topics import TopicInfo
from sinks.lake_root import Lake, lake_of
from sinks.noting import note, noted
from sinks.quality_tables import GATE_LOG, QUALITY_TABLES
from streams.gate_counting import REFERENCES, rules_of
from streams.gating import GateNews, WorkerGates
from streams.metrics import WorkerMetrics
from streams.ports import Clock

if TYPE_CHECKING:
    from feast import FeatureStore


class LakeTables:
    """The reference tables of a lake, read again when they change."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._tables = {table.name: table for table in QUALITY_TABLES}
        self._known: dict[str, tuple[int, KnownIds]] = {}

    def newest(self) -> dict[str, KnownIds | None]:
        """Return the table of each id, None where there is none; the same object while a table is the same.

        Raises:
            LakeUnavailableError: one cannot be read.
        """
        return {name: self._newest(name, f"reference_{what}") for name, what in REFERENCES.items()}

    def _newest(self, name: str, table: str) -> KnownIds | None:
        from sinks.delta import explained, opened

        address = self._lake / self._tables[table].name
        handle = opened(address)
        if handle is None:
            self._known.pop(name, None)
            return None
        version = int(handle.version())
        if name not in self._known or self._known[name][0] != version:
            with explained(address):
                ids = handle.to_pyarrow_dataset().to_table(columns=[name]).column(name)
            self._known[name] = version, KnownIds(id_hashes(ids.to_pylist()))
        return self._known[name][1]


class RegisteredWriters:
    """Writer schemas, compared by fingerprint with those of this release and those that are expected.

    Args:
        fetch: text of a schema by its id; blocking.
        expected: SHA-256 fingerprints.
    """

    def __init__(self, fetch: Callable[[int], str], expected: list[str]) -> None:
        self._fetch = fetch
        self._expected = frozenset(fingerprint.lower() for fingerprint in expected)
        self._own = {topic: fingerprints(own_schema(topic)).sha256 for topic in EVENT_TOPICS}
        self._found: dict[int, str] = {}

    def is_expected(self, topic: str, schema_id: int) -> bool:
        """Tell whether records of a topic may be written with this schema.

        Raises:
            RegistryUnavailableError: the registry does not answer.
        """
        if schema_id not in self._found:
            self._found[schema_id] = fingerprints(self._fetch(schema_id)).sha256
        return self._found[schema_id] in {self._own[topic], *self._expected}

    def describe(self, schema_id: int) -> str:
        """Return the SHA-256 fingerprint of a schema that was asked for."""
        return self._found[schema_id]


def noted_in(lake: Lake) -> Callable[[GateNews], None]:
    """Return what records decisions in the lake, each once."""

    def tell(news: GateNews) -> None:
        key = {"topic": news.topic, "gate": news.gate, "step": news.step, "noted_ms": news.at_ms}
        if key not in noted(lake, GATE_LOG, list(key)):
            note(lake, GATE_LOG, [{**key, "detail": news.detail, "evidence": json.dumps(news.evidence)}])

    return tell


def worker_gates(
    settings: Settings,
    store: "FeatureStore",
    *,
    worker: str,
    topics: Mapping[str, TopicInfo],
    fetch: Callable[[int], str],
    metrics: WorkerMetrics,
    clock: Clock,
    alerts: Sequence[Callable[[GateNews], None]] = (),
) -> WorkerGates:
    """Make the gates of a worker.

    Args:
        worker: names this process among the workers.
        fetch: text of a writer schema by its id; blocking.
        alerts: who is told of a decision, beside the lake; blocking.

    Raises:
        SettingsError: a critical field does not exist.
    """
    return WorkerGates(
        rules_of(settings.gates),
        GateStore.beside(store),
        worker=worker,
        epochs={topic: topics[topic].log_epoch for topic in EVENT_TOPICS},
        tables=LakeTables(lake_of(settings)),
        writers=RegisteredWriters(fetch, settings.gates.expected_schemas),
        tellers=(noted_in(lake_of(settings)), *alerts),
        metrics=metrics,
        clock=clock,
    )
