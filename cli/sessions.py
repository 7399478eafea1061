"""`shopstream lake sessions`: the closed sessions of some days, from the raw events."""

import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.context import JsonFlag, emit, invocation, progress_console
from schemas.privacy import Pseudonyms
from sinks.lake_root import lake_of

if TYPE_CHECKING:
    from replay.sessions import SessionsReport


def sessions(
    ctx: typer.Context,
    *,
    day: Annotated[
        str | None, typer.Option("--day", metavar="DAY", show_default=False, help="This day, UTC: 2026-11-23.")
    ] = None,
    first: Annotated[
        str | None, typer.Option("--from", metavar="DAY", show_default=False, help="Days from this one on, UTC.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="DAY", show_default=False, help="To this one, which is included.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compute the closed sessions that began on some days from raw_events, and replace these days in `sessions`.

    Without a day: yesterday and today, as of the newest event of the lake. Needs no service. Workers may go on
    meanwhile; other upkeep of the lake may not. A run that is stopped leaves each day as it was, or done. Run it again
    for a day when late events of it have come.
    """
    days = _days(day, first, last)
    from replay.sessions import make_sessions

    settings = invocation(ctx).settings()
    console = progress_console()
    report = make_sessions(
        lake_of(settings),
        *days,
        Pseudonyms.with_key_of(settings.privacy),
        lambda line: console.print(line, style="dim", highlight=False, soft_wrap=True),
    )
    emit(report.payload(), as_json=as_json, text=lambda out: _print(out, report))


def _days(day: str | None, first: str | None, last: str | None) -> tuple[date | None, date | None]:
    if day is not None:
        if first is not None or last is not None:
            raise typer.BadParameter("it cannot be combined with --from and --to", param_hint="--day")
        return _day("--day", day), _day("--day", day)
    if first is None and last is None:
        return None, None
    if first is None or last is None:
        raise typer.BadParameter("give both --from and --to", param_hint="--from" if first is None else "--to")
    begin, end = _day("--from", first), _day("--to", last)
    if begin > end:
        raise typer.BadParameter(f"{begin} is after --to {end}", param_hint="--from")
    return begin, end


def _day(option: str, text: str) -> date:
    try:
        found = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no day such as 2026-11-23", param_hint=option) from None
    if found > datetime.fromtimestamp(time.time(), UTC).date():
        raise typer.BadParameter(f"{found} has not begun", param_hint=option)
    return found


def _print(console: Console, report: "SessionsReport") -> None:
    shown = Table(box=None, pad_edge=False)
    for heading in ("day", "sessions", "before", "still open", "events", "longer than 24 h"):
        shown.add_column(heading, justify="left" if heading == "day" else "right")
    for each in report.days:
        counts = (each.sessions, each.before, each.open, each.events, each.capped)
        shown.add_row(each.day, *(f"{count:,}" for count in counts))
    console.print(shown)
    until = datetime.fromtimestamp(report.closed_before_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    console.print(f"Sessions whose last event was before {until} UTC are closed.", highlight=False)
