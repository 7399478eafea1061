"""How the gates of all workers stand together, and what people decide about them: accept what is there, or override."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from config.errors import ShopstreamError
from config.settings import Settings
from feature_repo.connections import RedisConnections
from feature_repo.fence import FenceStore
from feature_repo.gate_store import Accepted, GateNotes, GateStore, Override
from quality.gates import Gate, GateRules, GateStatus, Tally, Verdict, judge
from schemas.event import EVENT_TOPICS
from schemas.topics import describe_topics
from sinks.lake_root import lake_of
from sinks.noting import note
from sinks.quality_tables import GATE_LOG
from streams.gate_alerts import alert_once
from streams.gate_counting import rules_of
from streams.gating import GateNews
from streams.observing import GroupLags

REPORT_AGE_MS: Final = 60_000


@dataclass(frozen=True, slots=True)
class GateStanding:
    """How one gate of a topic stands.

    Attributes:
        policy: what a violation does.
        verdict: over what all workers counted; None where it is off.
        since_ms: append time of the record with which it came to stand so; None when no worker has told.
        until_ms: until when it is overridden; None if it is not.
    """

    policy: str
    verdict: Verdict | None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TopicStanding:
    """How the gates of a topic stand.

    Attributes:
        workers: how many told of the topic within the last minute.
        halted: partitions that are halted, by their fences.
    """

    topic: str
    notes: GateNotes
    gates: Mapping[Gate, GateStanding]
    workers: int
    halted: int

    @property
    def is_red(self) -> bool:
        """Tell whether the topic is halted, or a gate of it fails."""
        verdicts = (standing.verdict for standing in self.gates.values())
        return bool(
            self.notes.halt or self.halted or any(found.status is GateStatus.FAIL for found in verdicts if found)
        )

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        halt = self.notes.halt
        return {
            "topic": self.topic,
            "is_red": self.is_red,
            "workers": self.workers,
            "halted_partitions": self.halted,
            "halt": None if halt is None else asdict(halt),
            "gates": [
                {
                    "gate": gate,
                    "policy": standing.policy,
                    "status": "off" if standing.verdict is None else standing.verdict.status,
                    "value": standing.verdict and standing.verdict.value,
                    "threshold": standing.verdict and standing.verdict.threshold,
                    "count": standing.verdict and standing.verdict.count,
                    "detail": "not judged" if standing.verdict is None else standing.verdict.detail,
                    "since_ms": standing.since_ms,
                    "overridden_until_ms": standing.until_ms,
                }
                for gate, standing in self.gates.items()
            ],
        }


def standings(settings: Settings) -> list[TopicStanding]:
    """Return how the gates of each topic stand.

    Raises:
        SettingsError: a critical field does not exist, or no Redis is set.
        OnlineStoreError: Redis does not answer, or what it holds cannot be read.
    """
    rules, now_ms = rules_of(settings.gates), _now_ms()
    found = []
    with _opened(settings) as (store, fences):
        for topic in EVENT_TOPICS:
            notes = store.read_blocking(topic)
            halted = sum(fence.is_halted for fence in fences.read_blocking(topic).values())
            found.append(_standing(topic, rules[topic], notes, halted, now_ms))
    return found


def _standing(topic: str, rules: GateRules, notes: GateNotes, halted: int, now_ms: int) -> TopicStanding:
    told = [counts for counts in notes.counts.values() if now_ms - int(counts["at_ms"]) <= REPORT_AGE_MS]
    tally = Tally()
    for counts in told:
        tally.add(Tally.of(counts["tally"]))
    missing = {name for counts in told for name in counts["missing"]}
    verdicts = {verdict.gate: verdict for verdict in judge(tally, rules, missing=missing)}
    gates = {}
    for gate in Gate:
        verdict, until_ms = verdicts.get(gate), None
        override = notes.overrides.get(gate)
        if not told and verdict is not None:
            said = "nothing was read of the topic within the last minute: nothing arrives, or no worker runs"
            verdict = Verdict(gate, GateStatus.UNKNOWN, None, verdict.threshold, 0, said)
        if override is not None and now_ms < override.until_ms and verdict is not None:
            until_ms = override.until_ms
            said = f"{verdict.status}, but may not halt ({override.reason}): {verdict.detail}"
            verdict = Verdict(gate, GateStatus.OVERRIDDEN, verdict.value, verdict.threshold, verdict.count, said)
        since = [int(counts["since"][gate][1]) for counts in told if gate in counts["since"]]
        gates[gate] = GateStanding(rules.policy(gate), verdict, min(since, default=None), until_ms)
    return TopicStanding(topic, notes, gates, len(told), halted)


def accept(settings: Settings, topic: str, reason: str) -> dict[int, int]:
    """Take what is in a topic's log now as it is, and end its halt; return up to which offsets, by partition.

    A webhook is told, too. Again is harmless.

    Raises:
        BrokerUnavailableError, OnlineStoreError, LakeUnavailableError: a service does not answer; after the last of
            these the halt has ended, and only the record of it is missing.
        OutboxError: the halt has ended, and neither the webhook nor the lake was told.
    """
    epoch = describe_topics(settings)[topic].log_epoch
    offsets = {lag.tp.partition: lag.produced for lag in GroupLags(settings).read() if lag.tp.topic == topic}
    accepted = Accepted(epoch, offsets, _now_ms(), reason)
    with _opened(settings) as (store, fences):
        store.accept_blocking(topic, accepted)
        fences.free_blocking(topic)
    evidence = {"epoch": epoch, "offsets": offsets}
    alert_once(settings, GateNews(topic, "", "resumed", reason, evidence, accepted.at_ms))
    _record(settings, topic, "", "resumed", reason, evidence, accepted.at_ms)
    return offsets


def override(settings: Settings, topic: str, gate: Gate, reason: str, for_ms: int) -> int:
    """Keep a gate from halting for a while; return until when.

    Raises:
        OnlineStoreError, LakeUnavailableError: a service does not answer.
    """
    now_ms = _now_ms()
    with _opened(settings) as (store, _):
        store.override_blocking(topic, Override(gate, now_ms + for_ms, now_ms, reason))
    _record(settings, topic, gate, "overridden", reason, {"until_ms": now_ms + for_ms}, now_ms)
    return now_ms + for_ms


@contextmanager
def _opened(settings: Settings) -> Iterator[tuple[GateStore, FenceStore]]:
    url = settings.require("redis").redis.connection_url.get_secret_value()
    connections = RedisConnections(url, timeout_s=settings.redis.timeout_s)
    try:
        yield GateStore(connections, settings.feast.project), FenceStore(connections, settings.feast.project)
    finally:
        connections.close_blocking()


def _record(
    settings: Settings, topic: str, gate: str, step: str, detail: str, evidence: Mapping[str, Any], at_ms: int
) -> None:
    row = {"topic": topic, "gate": gate, "step": step, "detail": detail, "evidence": json.dumps(evidence)}
    try:
        note(lake_of(settings), GATE_LOG, [{**row, "noted_ms": at_ms}])
    except ShopstreamError as error:
        raise ShopstreamError(f"{topic} was {step}, but the lake did not record it: {error}") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
