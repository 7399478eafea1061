"""`shopstream demo`: the main job, end to end, on a stack of its own, with an account of what became of every event."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live as LiveDisplay
from rich.markup import escape
from rich.table import Column, Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from cli.interrupts import termination_unwinds
from config.settings import Settings

_SHARE = {"min": 0.0, "max": 0.5}


def demo(
    ctx: typer.Context,
    rate: Annotated[float, typer.Option(min=1, help="Simulated events per second.")] = 1_000.0,
    seconds: Annotated[float, typer.Option(min=1, help="How long to send.")] = 30.0,
    rees46: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Send a REES46 CSV file at full speed instead.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated traffic.")] = 0,
    late: Annotated[float, typer.Option(**_SHARE, help="Share of late events.")] = 0.005,
    duplicates: Annotated[float, typer.Option(**_SHARE, help="Share of duplicate events.")] = 0.005,
    broken: Annotated[float, typer.Option(**_SHARE, help="Share of broken records.")] = 0.002,
    currency: Annotated[str, typer.Option(help="Currency of all prices.")] = "EUR",
    users: Annotated[int, typer.Option(min=200, help="Users whose features are compared with the oracle.")] = 1_000,
    *,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift", help="Tell the story of a null bug, a shift and a retraining; of the options only --seed counts."
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Run everything once and check it.

    It starts Kafka, a schema registry and Redis of its own, registers the schemas, applies the features, starts a
    worker, sends traffic, reads features back through Feast, and compares them with a brute-force computation over
    what was sent. Exit code 3 when anything differs. Your own stack and data are left alone.

    With --drift it runs days of a shop in minutes: a quiet stretch, a null bug that halts a view, a real shift, one
    retraining, its validation, canary and promotion. Exit code 3 when it did not go as it should.
    """
    settings = invocation(ctx).settings()
    if drift:
        if rees46 is not None:
            raise typer.BadParameter("the story of drift is of a simulated shop", param_hint="--rees46")
        _tell_story(settings, seed, as_json=json)
        return
    if rees46 is not None and not rees46.is_file():
        raise typer.BadParameter(f"there is no file {rees46}", param_hint="--rees46")
    from cli.demo_check import check
    from cli.demo_run import DemoOptions, DemoRun, Live, demo_stack

    console = progress_console()
    options = DemoOptions(rate, seconds, seed, late, duplicates, broken, currency, rees46)
    live = Live()
    with termination_unwinds(), _live_view(console, live) as tell:
        tell("Starting Kafka, the schema registry and Redis")
        with demo_stack(settings, tell) as own:
            result = DemoRun(own, options, live, tell).run()
            tell(f"Comparing features with the oracle, for {users:,} users")
            account = check(result, users)
        tell("Stopped the stack")
    emit(account.payload(), as_json=json, text=lambda out: _print(out, account.payload()))
    if not account.agrees:
        raise typer.Exit(ExitCode.DIFFERENCE)


def _tell_story(settings: Settings, seed: int, *, as_json: bool) -> None:
    from cli.demo_run import demo_stack
    from cli.drift_demo import DriftDemo, story_settings

    console = progress_console()
    started_s = time.monotonic()

    def tell(line: str) -> None:
        console.print(f"[{time.monotonic() - started_s:5.1f} s] {line}", markup=False, highlight=False, soft_wrap=True)

    with termination_unwinds():
        tell("Starting Kafka, the schema registry and Redis")
        with demo_stack(settings, tell) as own:
            story = DriftDemo(story_settings(own), tell, seed).run()
    emit(story.payload(), as_json=as_json, text=lambda out: _print_story(out, story.payload()))
    if not story.is_as_told:
        raise typer.Exit(ExitCode.DIFFERENCE)


def _print_story(console: Console, payload: dict[str, Any]) -> None:
    table = Table(
        Column("step", no_wrap=True),
        Column("at", justify="right"),
        "outcome",
        title="What happened",
        title_justify="left",
    )
    for step in payload["steps"]:
        colour = "green" if step["as_told"] else "red"
        table.add_row(f"[{colour}]{step['step']}[/{colour}]", f"{step['at_s']:.0f} s", escape(step["outcome"]))
    console.print(table)
    console.print(
        f"{payload['seconds']:.0f} s; the page about drift: {payload['report']}", highlight=False, soft_wrap=True
    )


@contextmanager
def _live_view(console: Console, live: Any) -> Iterator[Any]:
    """Show the stage and, on a terminal, a table that moves; yield the function that names a new stage."""

    def tell(stage: str) -> None:
        live.stage = stage
        if not console.is_terminal:
            console.print(f"[{time.monotonic() - live.started_s:5.1f} s] {stage}", markup=False, highlight=False)

    if not console.is_terminal:
        yield tell
        return
    done = threading.Event()
    with LiveDisplay(_frame(live), console=console, refresh_per_second=4, transient=True) as display:

        def redraw() -> None:
            while not done.wait(0.25):
                display.update(_frame(live))

        thread = threading.Thread(target=redraw, daemon=True)
        thread.start()
        try:
            yield tell
        finally:
            done.set()
            thread.join()


def _frame(live: Any) -> Table:
    table = Table(title=live.stage, title_justify="left", show_header=False, min_width=60)
    outcomes = live.workers.outcomes
    table.add_row("elapsed", f"{time.monotonic() - live.started_s:,.0f} s")
    table.add_row("sent", f"{live.sent_count:,}")
    table.add_row("applied", f"{outcomes['applied']:,}")
    table.add_row(
        "duplicate / late / dead letter",
        f"{outcomes['duplicate']:,} / {outcomes['late']:,} / {outcomes['dead_letter']:,}",
    )
    if live.freshness_ms:
        samples = list(live.freshness_ms)
        p50, worst = statistics.median(samples), max(samples)
        table.add_row("readable after", f"{p50:,.0f} ms (median), {worst:,.0f} ms (worst of {len(samples):,})")
    table.add_row("worker memory", f"{live.workers.rss_bytes / 1e6:,.0f} MB")
    return table


def _print(console: Console, payload: dict[str, Any]) -> None:
    table = Table(title="Account", title_justify="left", show_header=False)
    for name in ("produced", "applied", "duplicates", "late", "dead_letters", "redelivered", "raw_rows"):
        table.add_row(name, f"{payload[name]:,}")
    for name in ("lost", "double_counted", "mismatched_features", "states_differing"):
        shown = f"{payload[name]:,}"
        table.add_row(name, f"[green]{shown}[/green]" if not payload[name] else f"[red]{shown}[/red]")
    table.add_row("users_checked", f"{payload['users_checked']:,} against the oracle")
    table.add_row("states_refolded", f"{payload['states_refolded']:,} from the lake, compared byte for byte")
    p50, p99, samples = (payload["freshness_ms"][name] for name in ("p50", "p99", "samples"))
    table.add_row("freshness_ms", f"p50 {p50}, p99 {p99}, of {samples:,} events read back through Feast")
    table.add_row("events_per_second", f"{payload['events_per_second']:,}")
    table.add_row("catch_up_s", f"{payload['catch_up_s']:,}")
    table.add_row("rss_mb", f"{payload['rss_mb']:,}")
    console.print(table)
    for reason, count in payload["dead_letters_by_reason"].items():
        console.print(f"  dead letters, {reason}: {count:,}", highlight=False)
    for oddity, count in payload.get("odd_rows", {}).items():
        console.print(f"  odd rows, {oddity}: {count:,}", highlight=False)
    for line in payload["differences"]:
        console.print(f"  [red]{line}[/red]", highlight=False)
