"""Bytes that no producer writes, by the million, through the codec in processes that may die of them."""

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.faults.scenario import Arena, Outcome, Scenario
from tests.faults.verdict import Verdict
from tests.unit.schemas.codec_fuzz import Findings, run

MESSAGES: Final = 1_000_000
SHARE: Final = 50_000


def mutated(arena: Arena) -> Outcome:
    """Decode mutated messages: each becomes an event or a dead letter, and no process ends."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # each waits for a process of its own
        found = list(pool.map(_share, range(0, MESSAGES, SHARE)))
    ended = [f"message {share.culprit}: {share.ended}" for share in found if share.ended]
    letters: Counter[str] = Counter()
    for share in found:
        letters.update(share.letters)
    events = sum(share.events for share in found)
    verdict = Verdict(
        records=MESSAGES,
        lost=MESSAGES - events - letters.total(),
        duplicated=0,
        mismatched=len(ended),
        examples=tuple(ended[:1]),
    )
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in letters.most_common())
    return Outcome(MESSAGES, verdict, notes=f"{events:,} still events; {reasons}")


def _share(first: int) -> Findings:
    return run(SHARE, first=first)


SCENARIOS: Final = (Scenario("fuzz", "mutated messages through the codec, in processes that may die of them", mutated),)
