"""`shopstream train`: training sets, and models that are trained on them."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.context import JsonFlag, emit, invocation, progress_console
from cli.interrupts import termination_unwinds
from cli.lake_options import LakeTime, LakeVersions, chosen_lake
from cli.train_run import run_training
from replay.dead_letter_selection import parse_time

if TYPE_CHECKING:
    from training.sets import SetReport

app = typer.Typer(no_args_is_help=True, help="Training sets, and models.")
app.command(name="run")(run_training)


@app.callback()
def train() -> None:
    """Training sets, and models."""


@app.command(name="set")
def make_set(
    ctx: typer.Context,
    *,
    mode: Annotated[str, typer.Option(help="as_served: what a model could read then; as_corrected: what was true.")],
    out: Annotated[str, typer.Option(help="Folder of the set; it appears as a whole, or not at all.")],
    labels: Annotated[
        Path | None, typer.Option(help="Parquet or CSV file with user_id, a time with its zone, and any other columns.")
    ] = None,
    events: Annotated[
        str | None, typer.Option(metavar="KIND", help="Each event of this kind is a label, 1 ms before it: purchase.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="First instant; ISO 8601 with its zone, -2h, or ms UTC."),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="End of the instants, not included.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of --labels that holds the times.")] = None,
    set_format: Annotated[str, typer.Option("--format", help="parquet or delta.")] = "parquet",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the set that lies there.")] = False,
    definition_version: Annotated[
        int | None, typer.Option(help="Fail unless this is the definition version of the features.")
    ] = None,
    lake_version: LakeVersions = None,
    lake_time: LakeTime = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a training set: labels with the features at their instants, and a manifest of what it was made of.

    Nothing from after a label's instant is in its row, nor the event that the label is. as_served needs a feature store
    to which definitions were applied (a worker does that); as_corrected needs the lake only.
    """
    from training.set_files import SetFormat
    from training.sets import SetMode, SetRequest
    from training.sets import make_set as make

    if (labels is None) == (events is None):
        raise typer.BadParameter("give either --labels FILE or --events KIND", param_hint="--labels")
    if "://" in out:
        raise typer.BadParameter(f"{out} is no folder: a set is written to a local disk", param_hint="--out")
    if time_column is not None and labels is None:
        raise typer.BadParameter("it needs --labels", param_hint="--time-column")
    request = SetRequest(
        mode=_one_of(SetMode, mode, "--mode"),
        out=Path(out),
        labels=labels,
        events=events,
        from_ms=_time(start, "--from"),
        to_ms=_time(end, "--to"),
        time_column=time_column,
        format=_one_of(SetFormat, set_format, "--format"),
        overwrite=overwrite,
        definition_version=definition_version,
    )
    settings = invocation(ctx).settings()
    lake = chosen_lake(settings, lake_version, lake_time)
    console = progress_console()
    with termination_unwinds():
        report = make(
            settings, lake, request, lambda line: console.print(line, style="dim", highlight=False, soft_wrap=True)
        )
    emit(report.payload(), as_json=as_json, text=lambda out: _print(out, report))


def _one_of(kinds: Any, text: str, option: str) -> Any:
    try:
        return kinds(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(kinds)}", param_hint=option) from None


def _time(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else parse_time(text, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _print(console: Console, report: "SetReport") -> None:
    manifest = report.manifest
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("set", str(report.out))
    table.add_row("mode", f"{manifest['mode']}, definition version {manifest['definition_version']}")
    table.add_row("rows", f"{manifest['rows']:,}")
    for reason, count in manifest["left_out"].items():
        table.add_row("left out", f"{count:,} ({reason.replace('_', ' ')})")
    table.add_row("bytes", f"{sum(file['bytes'] for file in manifest['files']):,}")
    table.add_row("seconds", f"{report.seconds:.1f}")
    console.print(table, highlight=False, soft_wrap=True)
    for warning in manifest["warnings"]:
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
