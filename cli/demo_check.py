"""The closing account of a demo: every record that was sent, where it is now, and whether the features are right."""

import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.demo_run import DemoResult
from cli.parity_ports import opened_parity
from config.settings import Settings
from features.catalog import FEATURES
from replay.parity import ParityPlan, compare
from replay.parity_content import instants_at
from schemas.event import EVENT_TOPICS, Event
from schemas.topics import describe_topics
from serving.reader import FeatureReader
from sinks.lake_reads import offsets
from sinks.tables import LAKE_TABLES
from traffic.sent_log import Sent, SentLog
from traffic.timed import Mark

USERS_PER_READ = 100
DIFFERENCES_SHOWN = 20
LATER_MS = 20 * 60_000  # features decay at read, so they are compared at a second instant too

Logs = Mapping[str, Sequence[tuple[int, Event]]]


@dataclass(frozen=True)
class Agreement:
    """How live states compare with those folded from the lake.

    Attributes:
        state_count: states that were compared.
        differing: how many differ, or could not be compared.
        examples: topic and user of the first of them.
    """

    state_count: int
    differing: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Account:
    """What became of everything.

    Attributes:
        counts: one JSON object's worth of numbers.
        differences: a sentence for each thing that is not as it should be.
    """

    counts: dict[str, Any]
    differences: list[str]

    @property
    def agrees(self) -> bool:
        """Tell whether nothing was lost, doubled or miscounted, and every compared feature is right."""
        return not self.differences

    def payload(self) -> dict[str, Any]:
        """Return the account as one JSON object."""
        return {**self.counts, "differences": self.differences[:DIFFERENCES_SHOWN]}


def check(result: DemoResult, users_max: int) -> Account:
    """Compare what was sent with the lake, the worker's counts and the online store.

    Args:
        users_max: users whose features are compared; all when there are fewer.
    """
    outcomes = result.workers.outcomes
    lost, doubled, raw_rows, differences = compare_positions(result.settings, result.log)
    by_user = result.log.by_user()
    applied_expected = expected_applied(by_user)
    if outcomes["applied"] != applied_expected:
        differences.append(f"{outcomes['applied']} events were applied, the oracle counts {applied_expected}")
    produced = result.log.acknowledged_count
    accounted = sum(outcomes[name] for name in ("applied", "duplicate", "late", "dead_letter")) + lost
    if produced != accounted:
        differences.append(f"{produced} records were produced, {accounted} are accounted for")
    checked, mismatches = compare_features(result.settings, by_user, users_max)
    differences.extend(mismatches)
    agreement = compare_states(result.settings)
    differences.extend(
        f"{topic}: the state of {user} is not what the lake folds to" for topic, user in agreement.examples
    )
    counts: dict[str, Any] = {
        "produced": produced,
        "applied": outcomes["applied"],
        "duplicates": outcomes["duplicate"],
        "late": outcomes["late"],
        "dead_letters": outcomes["dead_letter"],
        "redelivered": outcomes["redelivered"],
        "raw_rows": raw_rows,
        "lost": lost,
        "double_counted": doubled + max(0, outcomes["applied"] - applied_expected),
        "mismatched_features": len(mismatches),
        "users_checked": checked,
        "states_refolded": agreement.state_count,
        "states_differing": agreement.differing,
        "freshness_ms": _freshness(result.freshness_ms),
        "events_per_second": round(produced / result.busy_s) if result.busy_s else 0,
        "rss_mb": round(result.workers.rss_bytes / 1e6, 1),
        "rate_sent": round(result.summary.rate, 1),
        "catch_up_s": round(result.catch_up_s, 2),
        "sent_duplicates": result.log.mark_counts[Mark.DUPLICATE],
        "dead_letters_by_reason": dict(sorted(result.workers.dead_letters.items())),
    }
    if result.odd_rows is not None:
        counts["rows_read"] = result.odd_rows.row_count
        counts["odd_rows"] = {oddity.value: count for oddity, count in sorted(result.odd_rows.odd_counts.items())}
    return Account(counts, differences)


def compare_positions(settings: Settings, log: SentLog) -> tuple[int, int, int, list[str]]:
    """Compare the positions that the broker acknowledged with those in the lake.

    Returns:
        How many are lost, how many too many there are, the rows of `raw_events`, and what is wrong in words.
    """
    lake = settings.lake_path
    raw = offsets(lake, LAKE_TABLES["raw_events"])
    letters = offsets(lake, LAKE_TABLES["dead_letters"])
    held: Counter[tuple[str, int, int]] = Counter()
    for table in (raw, letters):
        for (topic, partition), found in table.items():
            held.update((topic, partition, offset) for offset in found)
    sent = {(record.topic, record.partition, record.offset) for record in log.records()}
    lost = len(sent - held.keys())
    doubled = sum(count - 1 for count in held.values())
    strangers = len(held.keys() - sent)
    differences = []
    if lost:
        differences.append(f"{lost} acknowledged records are neither in raw_events nor in dead_letters")
    if doubled:
        differences.append(f"{doubled} rows of the lake are there twice")
    if strangers:
        differences.append(f"{strangers} rows of the lake were never sent")
    return lost, doubled, sum(map(len, raw.values())), differences


def expected_applied(by_user: Mapping[str, Sequence[Sent]]) -> int:
    """Count by brute force how many events must be applied."""
    from tests.oracle import accepted

    return sum(len(accepted(log)) for sent in by_user.values() for log in _logs(sent).values())


def _logs(sent: Sequence[Sent]) -> Logs:
    logs: dict[str, list[tuple[int, Event]]] = {}
    for record in sent:
        if record.event is not None:
            logs.setdefault(record.topic, []).append((record.offset, record.event))
    return logs


def compare_features(
    settings: Settings, by_user: Mapping[str, Sequence[Sent]], users_max: int
) -> tuple[int, list[str]]:
    """Read users through Feast, now and for a later instant, and compare each feature with the oracle's.

    Returns:
        How many users were compared, and a sentence for each feature that differs.
    """
    from tests.oracle import expected

    users = sorted(by_user)
    chosen = random.Random(0).sample(users, min(users_max, len(users)))  # noqa: S311 - which users, not a secret
    reader = FeatureReader.from_settings(settings, for_inspection=True)
    now_ms = time.time_ns() // 1_000_000
    mismatches: list[str] = []
    try:
        for as_of_ms in (now_ms, now_ms + LATER_MS):
            for first in range(0, len(chosen), USERS_PER_READ):
                for answer in reader.read(chosen[first : first + USERS_PER_READ], as_of_ms):
                    right = expected(_logs(by_user[answer.user_id]), as_of_ms)
                    mismatches.extend(
                        f"{answer.user_id} at {as_of_ms}: {feature.name} is {answer.values[feature.name]!r}, "
                        f"should be {right[feature.name]!r}"
                        for feature in FEATURES
                        if answer.values[feature.name] != right[feature.name]
                    )
    finally:
        reader.close()
    return len(chosen), mismatches


def compare_states(settings: Settings) -> Agreement:
    """Fold the lake again, and compare the content of every state with the one in the online store."""
    described = describe_topics(settings)
    plan = ParityPlan({topic: described[topic] for topic in EVENT_TOPICS}, None, instants_at(()))
    with opened_parity(settings, of_states_only=True) as ports:
        report = compare(ports, plan, lambda _step: None)
    differing = [(str(found.topic), user.user_id) for user in report.differing for found in user.differences]
    told = [(str(gap.topic), f"{gap.user_count} users of partition {gap.partition}") for gap in report.gaps]
    examples = (*differing, *told)[:DIFFERENCES_SHOWN]
    gap_count = sum(gap.user_count for gap in report.gaps)
    return Agreement(report.state_count, report.difference_count + gap_count, tuple(examples))


def _freshness(samples_ms: Sequence[float]) -> dict[str, Any]:
    if len(samples_ms) < 2:
        return {"p50": None, "p99": None, "samples": len(samples_ms)}
    percentiles = statistics.quantiles(samples_ms, n=100, method="inclusive")
    return {"p50": round(percentiles[49], 1), "p99": round(percentiles[98], 1), "samples": len(samples_ms)}
