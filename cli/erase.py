"""`shopstream lake erase`: what is known of a user goes, and does not come back."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console

if TYPE_CHECKING:
    from replay.erase import ErasurePlan, ErasureReport, ModelErasure, SetErasure
    from replay.last_copies import LastCopy


def erase(
    ctx: typer.Context,
    user: Annotated[
        str | None,
        typer.Argument(metavar="USER", show_default=False, help="User id; - reads it from the first line of stdin."),
    ] = None,
    *,
    again: Annotated[
        bool, typer.Option("--again", help="Erase again whatever an older copy of Redis or of the lake brought back.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for workers to write what they hold.")
    ] = 120.0,
    as_json: JsonFlag = False,
) -> None:
    """Erase a user from Redis, the lake, its training sets and models; events that come later are counted anew.

    Needs privacy.key, also in the workers' settings. Workers may go on meanwhile. A run that was interrupted is
    finished by the same command. Older versions of the tables cannot be read afterwards. Kafka keeps its records until
    its own retention deletes them: until when is told at the end.
    """
    user_id = _user(user, again=again)
    if again and dry_run:
        raise typer.BadParameter("it cannot be combined with --again", param_hint="--dry-run")
    from replay.erase import erase_user, payload, plan_erasure
    from replay.erase_again import erase_again
    from replay.erasure_ports import Ports
    from training.model_erasing import model_eraser
    from training.set_erasing import set_eraser

    console = progress_console()

    def tell(line: str) -> None:
        console.print(line, style="dim", highlight=False, soft_wrap=True)

    settings = invocation(ctx).settings()
    ports = Ports.open(settings, tell)
    sets, models = set_eraser(settings, tell), model_eraser(settings, tell)
    try:
        if dry_run:
            plan = plan_erasure(ports, user_id)
            emit(payload(plan), as_json=as_json, text=lambda out: _print_plan(out, plan))
            return
        if not yes:
            _confirm(again=again)
        if again:
            report = erase_again(ports, erase_sets=sets, erase_models=models)
        else:
            report = erase_user(ports, user_id, wait_s=wait, erase_sets=sets, erase_models=models)
    finally:
        ports.close()
    emit(payload(report), as_json=as_json, text=lambda out: _print_report(out, report))


def _user(user: str | None, *, again: bool) -> str:
    if again == (user is not None):
        raise typer.BadParameter("give either a user or --again", param_hint="USER")
    found = sys.stdin.readline().rstrip("\n") if user == "-" else user or ""
    if not found and not again:
        raise typer.BadParameter("it is empty", param_hint="USER")
    return found


def _confirm(*, again: bool) -> None:
    what = "Erase again what came back of users who were erased" if again else "Erase everything of this user"
    if not typer.confirm(f"{what}? Older versions of the lake's tables are lost with it.", err=True):
        typer.echo("shopstream: Nothing was erased.", err=True)
        raise typer.Exit(ExitCode.FAILED)


def _print_plan(console: Console, plan: "ErasurePlan") -> None:
    if plan.is_resumed:
        console.print("An erasure of this user was begun and not finished; this command would go on with it.")
    states = ", ".join(f"{topic} at version {version}" for topic, version in plan.versions.items()) or "none"
    console.print(f"States in the online store: {states}", highlight=False)
    console.print("Rows: " + ", ".join(f"{name} {count:,}" for name, count in plan.rows.items()), highlight=False)
    waits = (
        f"Workers run; they have {plan.unread:,} records to commit first." if plan.workers_run else "No worker runs."
    )
    console.print(waits, highlight=False)
    _print_copies(console, plan.last_copies)


def _print_report(console: Console, report: "ErasureReport") -> None:
    shown = Table(box=None, pad_edge=False)
    for heading in ("table", "rows", "files of older versions", "leftovers", "oldest version that can be read"):
        shown.add_column(heading, justify="left" if heading == "table" else "right")
    for table in report.tables:
        counts = (table.rows, table.files, table.leftovers, table.oldest_version)
        shown.add_row(table.name, *(f"{count:,}" for count in counts))
    console.print(shown)
    for each in report.sets:
        console.print(f"Training set {each.path}: {_set_line(each)}", highlight=False, soft_wrap=True)
    for model in report.models:
        console.print(f"Model {model.model}: {_model_line(model)}", highlight=False, soft_wrap=True)
    states = ", ".join(f"{topic} {number:,}" for topic, number in report.versions.items()) or "none was there"
    label = "States erased, by version" if report.request_id else "States erased, how many"
    console.print(f"{label}: {states}", highlight=False)
    if report.unread:
        console.print(
            f"{report.unread:,} records from before the request were not read yet. A worker will drop those of this "
            "user. Run this command once more when one has caught up: only then are dead letters found that name the "
            "user without its key.",
            highlight=False,
        )
    _print_copies(console, report.last_copies)


def _set_line(found: "SetErasure") -> str:
    if found.outcome == "gone":
        return "nothing lies there on this machine; where it was moved or copied to, delete it or make it again"
    return f"{found.rows:,} rows erased" if found.rows else "nobody erased is in it"


def _model_line(found: "ModelErasure") -> str:
    if found.outcome == "gone":
        return "its files are not on this machine; run this command where they are"
    return f"the factors of {found.users:,} users erased" if found.users else "nobody erased is in it"


def _print_copies(console: Console, copies: Any) -> None:
    console.print("What is left is in Kafka itself, until its retention deletes it:", highlight=False)
    for copy in copies:
        console.print(f"  {copy.topic}: {_until(copy)}", highlight=False)
    console.print("Backups and the persistence files of Redis (AOF, RDB) hold it until they are written anew.")


def _until(copy: "LastCopy") -> str:
    if copy.gone_by_ms is None:
        return "for ever; set retention.ms and cleanup.policy=delete, or delete its records"
    moment = datetime.fromtimestamp(copy.gone_by_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    days = (copy.retention_ms or 0) / 86_400_000
    return f"until {moment} at the latest (retention.ms is {days:,.4g} days)"
