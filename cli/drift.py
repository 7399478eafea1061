"""`shopstream drift`: is the data still what the model was trained on, what moved, and what follows from it."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from cli import drift_views
from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from cli.drift_watch import Round, behind, check_windows, red_gates, watch
from cli.durations import duration_ms
from cli.interrupts import termination_unwinds
from cli.priority import GIVES_WAY, NiceOption, giving_way
from config.settings import Settings
from replay.dead_letter_selection import parse_time

app = typer.Typer(no_args_is_help=True, help="Drift: has the data moved away from what the model was trained on.")

REPORT_FILE: Final = "drift.html"
WINDOWS_SHOWN: Final = 12

_Time: Final = "ISO 8601 with its zone, -2h (s, m, h, d, w), or milliseconds UTC"
From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help=f"First event time: {_Time}.", show_default=False)
]
To = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="End of the event times, not included.", show_default=False)
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the lake.")]


@app.command()
def status(
    ctx: typer.Context,
    windows: Annotated[int, typer.Option(min=1, help="How many of the newest windows to show.")] = WINDOWS_SHOWN,
    *,
    json: JsonFlag = False,
) -> None:
    """Show what windows are compared with, what the newest say, and what is under way.

    Exit code 3 when so many windows in a row drifted that a retraining is due.
    """
    settings = invocation(ctx).settings()
    from training.drift_status import DriftStatus

    found = DriftStatus.read(settings)
    payload = found.payload(windows)
    emit(payload, as_json=json, text=lambda console: drift_views.print_status(console, payload))
    if found.is_drifted:
        raise typer.Exit(ExitCode.DIFFERENCE)


@app.command()
def report(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help=f"Where to write the page \\[default: <home>/reports/{REPORT_FILE}].",
            show_default=False,
        ),
    ] = None,
    first: From = None,
    end: To = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Write a page with pictures of what moved: one file that needs nothing else. By default, of the last 200 windows.

    With --json the same content is printed, and a page is written only with --out.
    """
    settings = invocation(ctx).settings()
    from training.drift_page import page
    from training.drift_report import drift_report

    found = drift_report(settings, _moment("--from", first), _moment("--to", end))
    path = out if out is not None or json else settings.home / "reports" / REPORT_FILE
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(found), encoding="utf-8")
    payload = {**found.document(), "page": None if path is None else str(path)}
    emit(payload, as_json=json, text=lambda console: drift_views.print_report(console, payload))


@app.command()
def calibrate(
    ctx: typer.Context,
    first: From = None,
    end: To = None,
    *,
    nice: NiceOption = GIVES_WAY,
    json: JsonFlag = False,
) -> None:
    """Take a stretch of history as reference, and calibrate the thresholds on it: it is in force from then on.

    By default the training.history_ms before the newest event. Take one without campaigns and broken data; windows
    that came while a view was halted are left out. For each window of it is computed whether it would have alarmed.
    """
    settings = invocation(ctx).settings()
    ctx.with_resource(giving_way(nice))
    ctx.with_resource(termination_unwinds())
    from sinks.lake_root import lake_of
    from training.drift_reference import reference_in_force, take_reference

    from_ms, to_ms = _history(settings, first, end)
    console = progress_console()
    before = reference_in_force(lake_of(settings))
    take_reference(
        settings,
        from_ms,
        to_ms,
        None if before is None else before.model,  # it is what windows are compared with that changes, not what serves
        lambda line: console.print(line, style="dim", highlight=False),
    )
    taken = reference_in_force(lake_of(settings))
    if taken is None:
        raise AssertionError("the reference that was taken is not in the lake")
    payload = {**taken.summary(), "noise": taken.calibration.document()["noise"]}
    emit(payload, as_json=json, text=lambda out: drift_views.print_calibration(out, payload))


@app.command()
def check(ctx: typer.Context, *, nice: NiceOption = GIVES_WAY, json: JsonFlag = False) -> None:
    """Judge the windows that are closed and were not judged yet, now, and ask for a retraining where that is due.

    A worker does so every drift.check_interval_s. Exit code 3 when a window alarmed.
    """
    settings = invocation(ctx).settings()
    ctx.with_resource(giving_way(nice))
    ctx.with_resource(termination_unwinds())
    from streams.observing import GroupLags

    console = progress_console()
    found = check_windows(
        settings,
        red_gates(settings),
        behind(settings, GroupLags(settings)),
        lambda line: console.print(line, style="dim", highlight=False),
    )
    payload = found.payload()
    emit(payload, as_json=json, text=lambda out: drift_views.print_check(out, payload))
    if any(window["outcome"] == "alarm" for window in payload["windows"]):
        raise typer.Exit(ExitCode.DIFFERENCE)


@app.command()
def silence(
    ctx: typer.Context,
    *,
    duration: Annotated[str, typer.Option("--for", metavar="DURATION", help="Such as 30m, 2h or 1d; 0s to end it.")],
    reason: Reason,
    json: JsonFlag = False,
) -> None:
    """Ask for no retraining for a while, as during a sale. Windows are judged and shown all the same."""
    for_ms = duration_ms("--for", duration)
    settings = invocation(ctx).settings()
    from config.words import moment
    from sinks.retraining import Retraining

    until_ms = _now_ms() + for_ms
    Retraining.from_settings(settings).silence(until_ms, reason)
    payload = {"until_ms": until_ms, "reason": reason}
    said = f"No retraining is asked for before {moment(until_ms)}." if for_ms else "Retrainings are asked for again."
    emit(payload, as_json=json, text=lambda console: console.print(said, highlight=False))


@app.command()
def trigger(
    ctx: typer.Context,
    *,
    force: Annotated[bool, typer.Option("--force", help="Say that you mean it: no window gives cause for it.")] = False,
    reason: Reason,
    json: JsonFlag = False,
) -> None:
    """Ask for a retraining without cause, in spite of cooldown and silence.

    Not while one is under way, or a gate is red: then the exit code is 3.
    """
    if not force:
        raise typer.BadParameter("a retraining without cause needs --force", param_hint="--force")
    settings = invocation(ctx).settings()
    from sinks.lake_root import lake_of
    from sinks.retraining import Retraining
    from training.lake_snapshot import Snapshot

    answer = Retraining.from_settings(settings).force(
        reason=reason,
        evidence={"lake_versions": Snapshot.of(lake_of(settings)).versions},
        red=red_gates(settings).words,
    )
    emit(answer, as_json=json, text=lambda console: drift_views.print_answer(console, answer))
    if answer["outcome"] == "suppressed":
        raise typer.Exit(ExitCode.DIFFERENCE)


@app.command(name="watch")
def watch_(
    ctx: typer.Context,
    interval: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Between two rounds \\[default: drift.check_interval_s].", show_default=False
        ),
    ] = None,
    *,
    until_parent_ends: Annotated[
        bool, typer.Option("--until-parent-ends", help="End when standard input ends, as a worker's child does.")
    ] = False,
    nice: Annotated[
        int | None,
        typer.Option(
            min=0, max=19, help="How far to give way to other processes \\[default: drift.nice].", show_default=False
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Go round until it is ended: judge windows, deliver requests, train where that is set, guard the rollout.

    A worker starts it (drift.is_watched). One process of a home watches; another one ends at once. A part that fails is
    tried again in the next round. Metrics go to <home>/metrics/drift.prom. With --json, an object a line is printed of
    what happened.
    """
    settings = invocation(ctx).settings()
    ctx.with_resource(giving_way(settings.drift.nice if nice is None else nice))
    interval_s = settings.drift.check_interval_s if interval is None else duration_ms("--interval", interval) / 1000
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="drift watch: %(message)s")
    if until_parent_ends:
        from streams.watching import until_the_parent_ends

        until_the_parent_ends()
    if not watch(settings, interval_s, tell=_told, took=_printed if json else _kept_quiet):
        _told("another process watches already")


def _printed(done: Round) -> None:
    sys.stdout.write(json.dumps(done.payload(), default=str) + "\n")
    sys.stdout.flush()


def _kept_quiet(_done: Round) -> None:
    """Print nothing: what happens is told on stderr."""


def _told(line: str) -> None:
    sys.stderr.write(f"drift watch: {line}\n")
    sys.stderr.flush()


def _history(settings: Settings, first: str | None, end: str | None) -> tuple[int, int]:
    from sinks.erasures import Tombstones
    from sinks.lake_root import lake_of
    from sinks.sessions import EventReader
    from training.errors import NotInLakeError

    from_ms, to_ms = _moment("--from", first), _moment("--to", end)
    if to_ms is None:
        bounds = EventReader(lake_of(settings), Tombstones()).bounds()
        if bounds is None:
            raise NotInLakeError("The lake holds no events.", hint="Run `shopstream worker` while events are sent.")
        to_ms = min(_now_ms(), bounds.newest_event_ms)
    if from_ms is None:
        from_ms = to_ms - settings.training.history_ms
    if from_ms >= to_ms:
        raise typer.BadParameter("it is not before --to", param_hint="--from")
    return from_ms, to_ms


def _moment(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(text, _now_ms())
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
