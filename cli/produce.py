"""`shopstream produce`: simulated traffic at a rate, or the rows of a REES46 file."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.context import JsonFlag, emit, invocation, progress_console
from cli.interrupts import stop_requests
from schemas.rules import EVENT_TIME_MS_MIN
from traffic.errors import SendError
from traffic.pacing import Pacer
from traffic.rees46 import LISTED_ODDITIES, ImportReport, Rees46File
from traffic.reference_files import write_reference_files
from traffic.sending import TrafficSummary, open_sender
from traffic.sent_log import SentLog
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import Mark

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIMULATOR_OPTIONS = (
    "rate", "seconds", "seed", "users", "late", "disordered", "duplicates", "broken", "taste", "reference_tables",
)  # fmt: skip
_SHARE = {"min": 0.0, "max": 0.5}


def produce(
    ctx: typer.Context,
    rate: Annotated[float, typer.Option(min=0.01, help="Events per second.")] = 1_000.0,
    seconds: Annotated[float, typer.Option(min=0.001, help="How long; the number of events is rate x seconds.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and --start give the same events.")] = 0,
    users: Annotated[int | None, typer.Option(min=1, help="How many users there are \\[default: 20 x rate].")] = None,
    late: Annotated[float, typer.Option(**_SHARE, help="Share of events 11 to 60 minutes late.")] = 0.002,
    disordered: Annotated[float, typer.Option(**_SHARE, help="Share of events up to 9 minutes late.")] = 0.01,
    duplicates: Annotated[float, typer.Option(**_SHARE, help="Share of events sent a second time.")] = 0.005,
    broken: Annotated[
        float, typer.Option(**_SHARE, help="Share of records that are broken, in 15 ways in turn.")
    ] = 0.0,
    taste: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the products that visitors come upon by their own taste.")
    ] = 0.0,
    reference_tables: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write products.csv, categories.csv and users.csv of this shop there, too."),
    ] = None,
    currency: Annotated[str, typer.Option(help="Currency of all prices, ISO 4217.")] = "EUR",
    rees46: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Send the rows of a REES46 CSV file instead.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=0.001, help="With --rees46: times real time \\[default: full speed].")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Event time of the first event: ISO 8601 or ms UTC \\[default: now].")
    ] = None,
    since: Annotated[str | None, typer.Option(help="The same, counted back from now: 90s, 30m, 2h, 3d.")] = None,
    *,
    json: JsonFlag = False,
) -> None:
    """Send shop events to Kafka.

    Ctrl-C ends the run early: what was sent is flushed and reported.
    """
    if speed is not None and rees46 is None:
        raise typer.BadParameter("it goes with --rees46; simulated traffic has a --rate", param_hint="--speed")
    if rees46 is not None:
        _refuse_simulator_options(ctx)
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise typer.BadParameter(f"{currency!r} is not three capital letters, such as EUR", param_hint="--currency")
    settings = invocation(ctx).settings().require("kafka", "registry")
    start_ms = _start_ms(start, since)
    log = SentLog(keep=False)
    with stop_requests() as stopped, open_sender(settings, log, broken=broken > 0.0) as sender:
        report: ImportReport | None = None
        if rees46 is None:
            count: int | None = max(1, round(rate * seconds))
            config = _config(start_ms, rate, seed, users, (late, disordered, duplicates, broken), currency, taste)
            if reference_tables is not None:
                write_reference_files(config, reference_tables)
            start_s = time.monotonic()
            events = Simulator(config, count).events()
            pacer = Pacer(clock=time.monotonic, sleep=time.sleep, start_s=start_s, stopped=stopped)
        else:
            count = None
            file = Rees46File(rees46, currency, start_ms)
            report, events = file.report, file.events()
            pacer = Pacer(clock=time.monotonic, sleep=time.sleep, speed=speed, stopped=stopped)
        with _progress(count) as on_batch:
            summary = sender.run(events, pacer, on_batch)
        payload = _payload(summary, log, report, None if rees46 else rate, interrupted=stopped())
        emit(payload, as_json=json, text=lambda console: _print(console, payload))
    if summary.failed_count:
        (error, count), *_ = log.error_counts.most_common(1)
        raise SendError(f"Kafka refused {summary.failed_count} records, {count} of them with: {error}.")


def _refuse_simulator_options(ctx: typer.Context) -> None:
    for name in _SIMULATOR_OPTIONS:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter("it is for simulated traffic, not for a file", param_hint=option)


def _config(
    start_ms: int | None,
    rate: float,
    seed: int,
    users: int | None,
    shares: tuple[float, ...],
    currency: str,
    taste: float,
) -> SimulatorConfig:
    late, disordered, duplicates, broken = shares
    try:
        return SimulatorConfig(
            seed=seed,
            start_ms=_now_ms() if start_ms is None else start_ms,
            rate=rate,
            users=users,
            late_share=late,
            disorder_share=disordered,
            duplicate_share=duplicates,
            broken_share=broken,
            currency=currency,
            taste=taste,
        )
    except ValueError as error:
        raise typer.BadParameter(f"These options do not go together: {error}.") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _start_ms(start: str | None, since: str | None) -> int | None:
    if start is not None and since is not None:
        raise typer.BadParameter("--start and --since say the same thing; give one of them.")
    if since is not None:
        match = _DURATION.fullmatch(since)
        if match is None:
            raise typer.BadParameter(f"{since!r} is no duration such as 90s, 30m, 2h or 3d", param_hint="--since")
        return _usable(_now_ms() - round(float(match[1]) * _UNIT_MS[match[2]]), "--since")
    if start is None:
        return None
    if start.isdecimal():
        return _usable(int(start), "--start")
    try:
        moment = datetime.fromisoformat(start)
    except ValueError as error:
        hint = "ISO 8601, such as 2026-01-31T12:00:00Z, nor milliseconds"
        raise typer.BadParameter(f"{start!r} is neither {hint}", param_hint="--start") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return _usable(round(moment.timestamp() * 1_000), "--start")


def _usable(start_ms: int, option: str) -> int:
    if not EVENT_TIME_MS_MIN <= start_ms <= _now_ms():
        raise typer.BadParameter(f"it must lie between the year 2000 and now, not at {start_ms} ms", param_hint=option)
    return start_ms


@contextmanager
def _progress(count: int | None) -> Iterator[Callable[[int], None]]:
    console = progress_console()
    columns = (TextColumn("sent {task.completed:,.0f}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=4, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=count)
        yield lambda sent: bar.update(task, completed=sent)


def _payload(
    summary: TrafficSummary, log: SentLog, report: ImportReport | None, rate: float | None, *, interrupted: bool
) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "sent": summary.sent_count,
        "acknowledged": summary.acknowledged_count,
        "failed": summary.failed_count,
        "unanswered": summary.unanswered_count,
        "interrupted": interrupted,
        "rate_asked": rate,
        "rate_achieved": round(summary.rate, 1),
        "seconds": round(summary.seconds, 3),
        "behind_ms_max": round(summary.behind_ms_max, 1),
        "kinds": dict(sorted(log.kind_counts.items())),
        **{mark.value: log.mark_counts[mark] for mark in Mark if mark is not Mark.PLAIN},
        "defects": {defect.value: count for defect, count in sorted(log.defect_counts.items())},
        "errors": dict(log.error_counts),
    }
    if report is not None:
        payload["rows"] = {
            "read": report.row_count,
            "sent": report.sent_count,
            "left_out": report.left_out_count,
            "odd_counts": {oddity.value: count for oddity, count in sorted(report.odd_counts.items())},
            "empty_unused_fields": dict(report.unused_empty_counts),
            "odd": [
                {"line": odd.line, "oddity": odd.oddity.value, "what": odd.what, "done": odd.done}
                for odd in report.odd_rows
            ],
        }
    return payload


def _print(console: Console, payload: dict[str, Any]) -> None:
    asked = "" if payload["rate_asked"] is None else f" of {payload['rate_asked']:,.0f} asked"
    ended = ", interrupted" if payload["interrupted"] else ""
    marks = [mark.value for mark in Mark if payload.get(mark.value)]
    kinds = [f"{kind} {count:,}" for kind, count in payload["kinds"].items()]
    speed = f"{payload['rate_achieved']:,.0f} per second{asked}{ended}"
    answers = ", ".join(f"{name} {payload[name]:,}" for name in ("acknowledged", "failed", "unanswered"))
    lines = [
        f"Sent {payload['sent']:,} events in {payload['seconds']:,.1f} s, {speed}; {answers}.",
        "  " + ", ".join([*kinds, *(f"{mark} {payload[mark]:,}" for mark in marks)]),
        *(f"  broken: {defect} {count:,}" for defect, count in payload["defects"].items()),
        *_row_lines(payload.get("rows")),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _row_lines(rows: dict[str, Any] | None) -> list[str]:
    if rows is None:
        return []
    unlisted = sum(rows["odd_counts"].get(oddity, 0) for oddity in LISTED_ODDITIES) - len(rows["odd"])
    return [
        f"Rows: {rows['read']:,} read, {rows['sent']:,} sent, {rows['left_out']:,} left out.",
        *(f"  {oddity.replace('_', ' ')}: {count:,}" for oddity, count in rows["odd_counts"].items()),
        *(f"  empty {name}, which no event carries: {n:,}" for name, n in rows["empty_unused_fields"].items()),
        *(f"  line {odd['line']}: {odd['what']}; {odd['done']}" for odd in rows["odd"]),
        *([f"  and {unlisted:,} more odd rows"] if unlisted else []),
    ]
