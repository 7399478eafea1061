"""`shopstream train run`: a model is trained, compared with what it must beat, and registered."""

import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from cli.interrupts import termination_unwinds
from replay.dead_letter_selection import parse_time

if TYPE_CHECKING:
    from training.registering import Registration
    from training.run import TrainingReport

_SYSTEMS: Final = {
    "hit rate@10": ("hit_rate_at_10", "{:.4f}"),
    "NDCG@10": ("ndcg_at_10", "{:.4f}"),
    "coverage": ("coverage", "{:.1%}"),
    "calibration error": ("calibration_error", "{:.4f}"),
    "p50 ms": ("latency_p50_ms", "{:.2f}"),
    "p99 ms": ("latency_p99_ms", "{:.2f}"),
}


def run_training(
    ctx: typer.Context,
    *,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="First event time; ISO 8601 with its zone, -2h, or ms UTC."),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of event times, not included; the newest if unset.")
    ] = None,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="The request for a retraining that this answers; each once.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Only register what earlier runs could not, MLflow being down.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a model, compare it with the champion and the baselines on a hold-out, and register it with the verdict.

    One that proves itself becomes the challenger. Exit code 3: it was rejected, and the reasons are told. Exit code 1
    also where it could only be queued, because the registry of models did not answer.
    """
    if resume and (start or end or request):
        raise typer.BadParameter("it registers what was trained, and takes no other option", param_hint="--resume")
    settings = invocation(ctx).settings()
    console = progress_console()

    def tell(line: str) -> None:
        console.print(line, style="dim", highlight=False, soft_wrap=True)

    from training.local_runner import train_for
    from training.run import ACCEPTED, QUEUED, train
    from training.run import resume as register_queued

    with termination_unwinds():
        if resume:
            done = register_queued(settings, tell)
            emit(_resumed(done), as_json=as_json, text=lambda out: _print_resumed(out, done))
            return
        from_ms, to_ms = _time(start, "--from"), _time(end, "--to")
        if request is None:
            report = train(settings, from_ms=from_ms, to_ms=to_ms, tell=tell)
        else:
            report = train_for(settings, request, tell, from_ms=from_ms, to_ms=to_ms)
    emit(report.payload(), as_json=as_json, text=lambda out: print_report(out, report))
    if report.outcome != ACCEPTED:
        raise typer.Exit(ExitCode.FAILED if report.outcome == QUEUED else ExitCode.DIFFERENCE)


def print_report(console: Console, report: "TrainingReport") -> None:
    """Print the figures beside those that were to be beaten, and the verdict with its reasons."""
    figures = report.about["figures"]
    shown = Table(box=None, pad_edge=False)
    shown.add_column("")
    for heading in _SYSTEMS:
        shown.add_column(heading, justify="right")
    for name, measured in figures["systems"].items():
        cells = (form.format(measured[key]) if key in measured else "-" for key, form in _SYSTEMS.values())
        shown.add_row(name, *cells)
    console.print(shown, highlight=False)
    console.print(f"\n{figures['queries']:,} queries of {figures['users']:,} users. NDCG@10 of the challenger, less:")
    for name, gain in figures["gains"].items():
        interval = f"95 % interval {gain['low']:+.4f} to {gain['high']:+.4f}"
        console.print(f"  {name}: {gain['mean']:+.4f}, {interval}", highlight=False)
    for name, part in figures["slices"].items():
        line = f"{part['queries']:,} queries, NDCG@10 {part['ndcg_at_10']:.4f}, {part['ndcg_gain']:+.4f}"
        console.print(f"  of {name}: {line} to {figures['rival']}", highlight=False)
    for warning in report.warnings:
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
    model = f"Model {report.version}" if report.version else f"The model {report.key}"
    console.print(f"\n{model} is {report.outcome}, after {report.seconds:.1f} s:", highlight=False)
    for reason in report.reasons:
        console.print(f"  {reason}", highlight=False, soft_wrap=True)


def _resumed(done: "list[Registration]") -> dict[str, Any]:
    return {
        "registered": [
            {"version": each.found.version, "is_accepted": each.is_accepted, "reasons": list(each.reasons)}
            for each in done
        ]
    }


def _print_resumed(console: Console, done: "list[Registration]") -> None:
    if not done:
        console.print("Nothing was queued.")
    for each in done:
        what = "accepted" if each.is_accepted else "rejected"
        console.print(f"Model {each.found.version} is registered, and {what}: {'; '.join(each.reasons)}")


def _time(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else parse_time(text, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
