"""The probing process, for real: what ends it is named, and everything else is not."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any

import psutil
import pytest

from config.settings import EventSettings, WorkerSettings
from schemas.encoder import Encoder
from schemas.event import CLICKS_TOPIC, Event, Record
from streams.errors import ProbingError
from streams.quarantine import CULPRITS_MAX, PROBING_COMMAND, ProbingQuarantine
from tests.planted_records import BLOAT_ID, COMMAND, CRASH_ID, ERROR_ID, HANG_ID
from tests.unit.schemas.conftest import IDS, NOW_MS, HeldSchemas
from tests.waiting import wait_until

ENCODER = Encoder(IDS)


def records(event_ids: Sequence[str]) -> list[Record]:
    return [
        Record(
            CLICKS_TOPIC, 0, 100 + at, NOW_MS, b"u",
            ENCODER.event(
                CLICKS_TOPIC, Event(event_id=event_id, kind="click", user_id="u", event_time_ms=NOW_MS)
            ),
        )
        for at, event_id in enumerate(event_ids)
    ]  # fmt: skip


def culprits(found: Sequence[Record], command: Sequence[str] = COMMAND, **settings: Any) -> tuple[dict[int, str], int]:
    quarantine = ProbingQuarantine(
        HeldSchemas().fetch, limits=EventSettings(), settings=WorkerSettings(**settings), command=command
    )
    named, tried = asyncio.run(quarantine.culprits(found, 1))
    return dict(named), tried


def test_good_records_and_dead_letters_are_no_culprits() -> None:
    good = [*records(["a", "b"]), Record(CLICKS_TOPIC, 0, 102, NOW_MS, None, b"junk")]
    unknown = Record(CLICKS_TOPIC, 0, 103, NOW_MS, None, b"\0\0\0\0\x63junk")
    assert culprits([*good, unknown], PROBING_COMMAND) == ({}, 4)


def test_each_culprit_is_named_with_how_it_ended_the_process_and_the_others_are_decoded() -> None:
    ids = ["a", CRASH_ID, "b", HANG_ID, BLOAT_ID, ERROR_ID, "c"]
    named, tried = culprits(records(ids), probe_cpu_s=1.5, probe_memory_mb=200)
    assert tried == len(ids)
    assert named == {
        101: f"Decoding it ends the process by signal {int(signal.SIGSEGV)} (SIGSEGV).",
        103: "Decoding it takes more than 1.5 s of CPU time.",
        104: "Decoding it takes more than 200 MB of memory.",
        105: "Decoding it ends the process with code 4 (RuntimeError: nobody expects this).",
    }


def test_too_many_culprits_are_not_all_looked_for() -> None:
    named, tried = culprits(records([CRASH_ID] * (CULPRITS_MAX + 10)))
    assert (len(named), tried) == (CULPRITS_MAX, CULPRITS_MAX)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((sys.executable, "-c", "raise SystemExit(7)"), "ended with 7"),
        ((sys.executable, "-c", "print('strange')"), "another kind"),
        ((sys.executable, "-c", "pass"), "no answer"),
    ],
)
def test_a_probing_process_that_fails_says_nothing_about_the_records(command: Sequence[str], words: str) -> None:
    with pytest.raises(ProbingError, match=words):
        culprits(records(["a"]), command)


def test_a_probing_that_is_given_up_leaves_no_process() -> None:
    quarantine = ProbingQuarantine(
        HeldSchemas().fetch, limits=EventSettings(), settings=WorkerSettings(probe_cpu_s=600), command=COMMAND
    )

    own = psutil.Process()
    others = set(own.children(recursive=True))  # the services of other tests

    def born() -> list[psutil.Process]:
        return [process for process in own.children(recursive=True) if process not in others]

    async def scenario() -> None:
        probing = asyncio.ensure_future(quarantine.culprits(records([HANG_ID]), 1))
        # the probing process and the one that it forked
        await asyncio.to_thread(wait_until, lambda: len(born()) >= 2, 60, "nothing is probed")
        hanging = born()
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing
        _, alive = await asyncio.to_thread(psutil.wait_procs, hanging, 30)
        assert alive == []

    asyncio.run(scenario())
