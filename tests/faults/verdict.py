"""What a fault has cost: each record's place in the lake, each state and many features, compared with what was sent."""

from collections import Counter
from dataclasses import dataclass

from cli.demo_check import compare_features, compare_positions, compare_states
from config.settings import Settings
from features.state import read_trailer
from sinks.tables import FEATURE_LOG
from traffic.sent_log import SentLog

EXAMPLES_MAX = 5


@dataclass(frozen=True)
class Verdict:
    """What is wrong after a fault; all counts but `records` should be 0.

    Attributes:
        records: what the broker has acknowledged.
        lost: acknowledged records that are neither in `raw_events` nor in `dead_letters`.
        duplicated: rows of the lake that are there twice.
        mismatched: states that differ from the fold of the lake, features that differ from the oracle's, and rows of
            the lake that nobody sent.
        examples: the first of these in words.
    """

    records: int
    lost: int
    duplicated: int
    mismatched: int
    examples: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Tell whether nothing is wrong."""
        return not (self.lost or self.duplicated or self.mismatched)


def judge(settings: Settings, log: SentLog, *, users_max: int = 300) -> Verdict:
    """Compare what was sent with what is there; the worker must have stored and committed all of it.

    Args:
        users_max: users whose features are compared with the oracle's; every state is refolded.
    """
    lost, doubled, _, differences = compare_positions(settings, log)
    strangers = sum("never sent" in difference for difference in differences)
    doubled_states = _doubled_states(settings)
    if doubled_states:
        differences.append(f"{doubled_states} states are in feature_log twice")
    agreement = compare_states(settings)
    differences += [f"{topic}: the state of {user} is not what the lake folds to" for topic, user in agreement.examples]
    checked, mismatches = compare_features(settings, log.by_user(), users_max)
    differences += mismatches
    assert checked, "nothing was sent"
    return Verdict(
        records=log.acknowledged_count,
        lost=lost,
        duplicated=doubled + doubled_states,
        mismatched=strangers + agreement.differing + len(mismatches),
        examples=tuple(differences[:EXAMPLES_MAX]),
    )


def _doubled_states(settings: Settings) -> int:
    """Count states that were logged twice.

    A repair writes a version again, a generation above. After a second loss generations begin anew, and the very same
    state may be stored again: that is another row, of another time.
    """
    from deltalake import DeltaTable

    path = settings.lake_path / FEATURE_LOG.name
    if not DeltaTable.is_deltatable(str(path)):
        return 0
    seen: Counter[tuple[str, int, int, int, int]] = Counter()
    names = ["topic", "partition", "version", "state", "servable_ms"]
    for batch in DeltaTable(path).to_pyarrow_dataset().to_batches(columns=names):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        for topic, partition, version, state, servable_ms in rows:
            trailer = read_trailer(state)
            is_repair = trailer.generation > 0 and trailer.built_from == 0
            seen[topic, partition, version, trailer.generation, servable_ms if is_repair else 0] += 1
    return sum(count - 1 for count in seen.values())
