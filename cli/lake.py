"""`shopstream lake`: upkeep of the Delta tables."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli import erase, references, sessions
from cli.context import JsonFlag, emit, invocation, progress_console
from sinks.lake_root import lake_of
from sinks.maintenance import MaintenanceReport, maintain_lake

app = typer.Typer(no_args_is_help=True, help="Upkeep of the Delta tables.")


@app.callback()
def lake() -> None:
    """Upkeep of the Delta tables."""


app.command()(erase.erase)
app.command()(sessions.sessions)
app.add_typer(references.app, name="reference")


@app.command()
def maintain(
    ctx: typer.Context,
    *,
    open_day: Annotated[
        bool, typer.Option("--open-day", help="Compact today's files too; they will be compacted again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Merge small files, write checkpoints, and delete files that no reader may need any more.

    It may run beside live workers, at any time: nothing is lost or doubled. Files are kept for lake.retention_hours
    after they were replaced, and for as long as a replay that is under way may need them. Days of feature_log that are
    older than lake.feature_log_retention_days are dropped.
    """
    settings = invocation(ctx).settings()
    console = progress_console()
    report = maintain_lake(
        lake_of(settings),
        retention_hours=settings.lake.retention_hours,
        history_hours=settings.lake.history_hours,
        feature_log_days=settings.lake.feature_log_retention_days,
        open_day=open_day,
        dry_run=dry_run,
        progress=lambda line: console.print(line, style="dim", highlight=False),
    )
    emit(report.payload(), as_json=as_json, text=lambda out: _print_report(out, report))


def _print_report(console: Console, report: MaintenanceReport) -> None:
    if not report.tables:
        console.print("The lake holds no table yet.")
        return
    shown = Table(box=None, pad_edge=False)
    for heading in ("table", "files", "MB", "files on disk", "MB on disk", "log files"):
        shown.add_column(heading, justify="left" if heading == "table" else "right")
    for table in report.tables:
        before, after = table.before, table.after
        shown.add_row(
            table.name,
            f"{before.files:,} -> {after.files:,}",
            f"{before.bytes / 1e6:,.1f} -> {after.bytes / 1e6:,.1f}",
            f"{before.disk_files:,} -> {after.disk_files:,}",
            f"{before.disk_bytes / 1e6:,.1f} -> {after.disk_bytes / 1e6:,.1f}",
            f"{before.log_files:,} -> {after.log_files:,}",
        )
    console.print(shown)
    if report.dry_run:
        for table in report.tables:
            console.print(
                f"{table.name}: {table.merged_files:,} small files would be merged (days: {table.merged_days:,}), "
                f"{table.deleted_files:,} files would be deleted."
                + (f" {table.dropped_days:,} old days would be dropped." if table.dropped_days else ""),
                highlight=False,
                soft_wrap=True,
            )
    for reader in report.readers:
        console.print(f"under way: {reader.reader}", highlight=False, soft_wrap=True)
