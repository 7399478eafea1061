"""`shopstream replay --into history|topic|nothing`: the events of a range, through the features' code, once more."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.context import emit, progress_console
from cli.interrupts import stop_requests
from cli.lake_options import chosen_lake
from config.settings import Settings
from replay.plan import ReplayPlan, ReplayRequest
from replay.ranges import shown
from sinks.lake_root import LakeRoot

if TYPE_CHECKING:
    from replay.execution import LakePin
    from replay.range_replay import RangeReplay, Running
    from replay.runs import Run
    from schemas.topics import TopicInfo

INTERRUPTED: Final = 130
TELL_EVERY_S: Final = 2.0
_SOURCES: Final = {"lake": "the lake", "kafka": "Kafka"}
_WRITES: Final = {
    "history": "a row of feature_history per event",
    "topic": "the same records to {to_topic}",
    "nothing": "nothing",
}


def lake_pin(settings: Settings, versions: Sequence[str] | None, instant: str | None) -> "LakePin | None":
    """Return as of when the lake is read; None for now."""
    from replay.execution import LakePin

    lake = chosen_lake(settings, versions, instant)
    if not isinstance(lake, LakeRoot) or not lake.pin:
        return None
    return LakePin(dict(lake.pin.versions), lake.pin.instant)


def replay_range(
    settings: Settings,
    topics: "dict[str, TopicInfo]",
    request: ReplayRequest,
    running: "Running",
    *,
    pin: "LakePin | None",
    dry_run: bool,
    json: bool,
) -> None:
    """Replay a range, and print its account.

    Raises:
        Exit: with 130, when it was stopped.
        ShopstreamError: it cannot be replayed, or something does not answer; what was done can be gone on with.
    """
    from replay.range_replay import RangeReplay

    console = progress_console()
    replay = RangeReplay(settings, request, topics, running, pin=pin)
    with stop_requests() as stopped:
        plan = replay.plan()
        estimate_s = replay.estimate_s(plan)
        _announce(console, plan, estimate_s)
        payload: dict[str, Any] = {
            "into": request.into.value,
            "source": request.source,
            "dry_run": dry_run,
            "plan": plan.payload(),
            "estimated_seconds": None if estimate_s is None else round(estimate_s, 1),
        }
        if not dry_run:
            payload |= _run(replay, replay.begun(plan), stopped, console)
    emit(payload, as_json=json, text=lambda out: _print(out, payload))
    if not dry_run and not payload["finished"]:
        console.print("Stopped; nothing is lost. The same command with --resume goes on.", highlight=False)
        raise typer.Exit(INTERRUPTED)


def _run(replay: "RangeReplay", begun: "AbstractContextManager[Run]", stopped: Any, console: Console) -> dict[str, Any]:
    from replay.range_replay import account

    with begun as run:
        if run.finished_ms is not None:
            console.print(
                f"Nothing is left to do: this replay was done at {shown(run.finished_ms)}. --restart begins anew.",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
        progress = _Progress(console, replay, run.plan)
        started_s = time.monotonic()
        is_finished = replay.run(run, progress.tell, stopped)
        seconds = time.monotonic() - started_s
        counts = account(replay.totals)
    records = replay.totals.counts.records - replay.read_before
    return {
        "run": run.plan.run_id,
        "resumed": run.is_resumed,
        "finished": is_finished,
        **counts,
        "seconds": round(seconds, 2),
        "records_per_second": round(records / seconds) if seconds else 0,
    }


class _Progress:
    """A line every two seconds: how far, how fast, how long still."""

    def __init__(self, console: Console, replay: "RangeReplay", plan: ReplayPlan) -> None:
        self._console = console
        self._replay = replay
        self._all = plan.record_count
        self._started_s = self._told_s = time.monotonic()

    def tell(self) -> None:
        """Print a line, unless one was printed just now."""
        now_s = time.monotonic()
        if now_s - self._told_s < TELL_EVERY_S:
            return
        self._told_s = now_s
        read = self._replay.totals.counts.records
        rate = (read - self._replay.read_before) / (now_s - self._started_s)
        left = f", {_spelled((self._all - read) / rate)} left" if rate else ""
        self._console.print(f"{read:,} of {self._all:,} records, {rate:,.0f}/s{left}", highlight=False)


def _announce(console: Console, plan: ReplayPlan, estimate_s: float | None) -> None:
    request = plan.request
    partitions = [part for part in plan.ranges if part.record_count]
    warm_up = f", {plan.warm_up_count:,} of them before the range, to warm up" if plan.warm_up_count else ""
    written = _WRITES[request.into.value].format(to_topic=request.to_topic)
    console.print(
        f"Run {plan.run_id}: reads {plan.record_count:,} records of {len(partitions)} partitions from "
        f"{_SOURCES[request.source]}{warm_up}; writes {written}, and checkpoints under <home>/replay."
        + (f" About {_spelled(estimate_s)}." if estimate_s is not None else ""),
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for note in plan.notes:
        console.print(note, style="yellow", highlight=False, soft_wrap=True)


def _print(console: Console, payload: dict[str, Any]) -> None:
    if payload["dry_run"]:
        table = Table("topic", "partition", "warm-up from", "first offset", "end offset", "complete from")
        for part in payload["plan"]["partitions"]:
            table.add_row(*("-" if value is None else str(value) for value in part.values()))
        console.print(table)
        return
    table = Table("", "", show_header=False)
    for name, value in payload.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "estimated_seconds":
            table.add_row(name, f"{value:,}")
    console.print(table)


def _spelled(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3600:.1f} h"
