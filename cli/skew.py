"""`shopstream skew`: does what readers were given agree with what should have been served."""

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from cli.lake_options import LakeTime, LakeVersions, chosen_lake
from config.settings import Settings
from replay.dead_letter_selection import parse_time
from replay.errors import NothingServedError
from schemas.privacy import Pseudonyms
from sinks.erasures import read_tombstones

if TYPE_CHECKING:
    from replay.skew_report import SkewReport

EXAMPLES_SHOWN: Final = 10
METRICS_FILE: Final = "skew.prom"

_Time = "ISO 8601 with its zone, -2h (s, m, h, d, w), or milliseconds UTC"


def skew(
    ctx: typer.Context,
    first: Annotated[str, typer.Option("--from", metavar="TIME", help=f"Answers since then: {_Time}.")] = "-24h",
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="Answers before then \\[default: now].", show_default=False),
    ] = None,
    users: Annotated[
        list[str] | None, typer.Option("--users", metavar="USER", help="Only of this user; may be repeated.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Only about N answers, the newest.")
    ] = None,
    lake_version: LakeVersions = None,
    lake_time: LakeTime = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Compare the answers that readers kept in `served` with what should have been served, and name each cause.

    Causes: late event, duplicate, definition change, lost or stale push, unknown (a bug). Counts by feature and cause
    are also written as metrics to <home>/metrics/skew.prom. Exit code 3 if any value differs. Nothing else is written.
    """
    from replay.skew import SkewOptions, audit
    from replay.skew_report import write_metrics

    settings = invocation(ctx).settings()
    now_ms = time.time_ns() // 1_000_000
    first_ms, end_ms = _moment("--from", first, now_ms), now_ms if end is None else _moment("--to", end, now_ms)
    if first_ms >= end_ms:
        raise typer.BadParameter("it is not before --to", param_hint="--from")
    lake = chosen_lake(settings, lake_version, lake_time)
    console = progress_console()
    options = SkewOptions(
        first_ms,
        end_ms,
        users=_stored_ids(settings, users) if users else None,
        limit=limit,
        allowance_ms=settings.serving.push_allowance_ms,
        future_ms=settings.events.future_tolerance_ms,
    )
    tombstones = read_tombstones(lake, Pseudonyms.with_key_of(settings.privacy))
    report = audit(lake, options, tombstones, lambda line: console.print(line, style="dim", highlight=False))
    if users and not report.looked_at:
        raise NothingServedError(users)
    metrics = settings.home / "metrics" / METRICS_FILE
    write_metrics(report, metrics)
    emit(report.payload(), as_json=as_json, text=lambda out: _print(out, report))
    if report.mismatched:
        raise typer.Exit(ExitCode.DIFFERENCE)


def _moment(option: str, text: str, now_ms: int) -> int:
    try:
        return parse_time(text, now_ms)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _stored_ids(settings: Settings, users: list[str]) -> list[str]:
    pseudonyms = Pseudonyms.in_use(settings.privacy)
    return users if pseudonyms is None else [pseudonyms.of(user) for user in users]


def _print(console: Console, report: "SkewReport") -> None:
    if not report.looked_at:
        console.print("No answers were kept in that time: see serving.served_share.", highlight=False)
        return
    if report.counts:
        _print_counts(console, report)
        _print_examples(console, report)
    left_out = f", {report.left_out:,} older ones left out" if report.left_out else ""
    console.print(
        f"{report.looked_at:,} answers{left_out}: {report.right:,} right, {report.mismatched:,} with a value that is "
        f"not what should have been served, {report.pending:,} not in the lake yet, {report.uncovered:,} from before "
        f"it ({report.seconds:.1f} s)",
        highlight=False,
        soft_wrap=True,
    )


def _print_counts(console: Console, report: "SkewReport") -> None:
    causes = [cause for cause, count in report.by_cause().items() if count]
    table = Table("feature", *causes)
    for feature, counts in report.by_feature().items():
        table.add_row(feature, *(f"{counts[cause]:,}" if cause in counts else "" for cause in causes))
    console.print(table)


def _print_examples(console: Console, report: "SkewReport") -> None:
    by_answer: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for example in report.examples:
        found = example.payload()
        by_answer.setdefault((found["cause"], found["user_id"], found["served_ms"]), []).append(found)
    for (cause, user_id, _), (first, *others) in list(by_answer.items())[:EXAMPLES_SHOWN]:
        events = "; ".join(
            f"{each['kind']} {each['event_id']} at {each['event_time_ms']}, appended {each['append_time_ms']}"
            for each in first["events"]
        )
        more = f" (and {len(others)} more features)" if others else ""
        console.print(
            f"{cause}: {first['feature']} of {user_id} at {first['as_of_ms']} was {first['served']!r}, should have "
            f"been {first['right']!r}{more}: {first['why']}. Events: {events or 'none'}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
