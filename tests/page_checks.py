"""Compares a checkout's features with its own oracle: run in the checkout, with the file of what was sent.

Prints one JSON object: what the history says that it should not, and what is served that should not be.
"""

import json
import os
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli.demo_check import compare_features, compare_states
from config.definition import DEFINITION_VERSION
from config.settings import Settings, load_settings
from features.catalog import FEATURES
from schemas.event import EVENT_TOPICS, Event
from sinks.delta import opened
from tests import oracle
from traffic.sent_log import Sent


def main(sent_path: Path) -> None:
    """Print what differs."""
    settings = load_settings()
    by_user: dict[str, list[Sent]] = pickle.loads(sent_path.read_bytes())
    checked, mismatches = compare_features(settings, by_user, len(by_user))
    states = compare_states(settings)
    told = {
        "definition_version": DEFINITION_VERSION,
        "features": [feature.name for feature in FEATURES],
        "users": checked,
        "live": mismatches,
        "states": states.state_count,
        "states_differing": states.differing,
        **history(settings, [sent for found in by_user.values() for sent in found]),
    }
    sys.stdout.write(json.dumps(told))
    sys.stdout.flush()
    os._exit(0)  # threads of native libraries may abort an interpreter that ends in order


def history(settings: Settings, sent: Sequence[Sent]) -> dict[str, Any]:
    """Compare each row of this definition version with what the oracle says just after its event."""
    handle = opened(settings.lake_path / "feature_history")
    assert handle is not None
    wanted = [("definition_version", "=", DEFINITION_VERSION)]
    rows = {
        (row["topic"], row["partition"], row["offset"]): row
        for row in handle.to_pyarrow_table(filters=wanted).to_pylist()
    }
    logs: dict[str, dict[str, list[tuple[int, Event]]]] = {}
    differing, missing = [], 0
    for record in sorted(sent, key=lambda each: (each.append_time_ms, each.topic, each.partition, each.offset)):
        assert record.event is not None
        event = record.event
        own = logs.setdefault(event.user_id, {topic: [] for topic in EVENT_TOPICS})
        own[record.topic].append((record.offset, event))
        row = rows.get((record.topic, record.partition, record.offset))
        if row is None:
            missing += 1
            continue
        right = oracle.expected(own, event.event_time_ms)
        differing += [
            f"{event.user_id} after {record.topic} {record.offset}: {feature.name} is {row[feature.name]!r}, "
            f"should be {right[feature.name]!r}"
            for feature in FEATURES
            if row[feature.name] != right[feature.name]
        ]
    return {"history": differing, "history_rows": len(rows), "history_missing": missing}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
