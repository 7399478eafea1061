"""`shopstream features compare` and `retire`: definition versions side by side, and the end of one."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from config.definition import DEFINITION_VERSION, versioned
from config.settings import Settings

if TYPE_CHECKING:
    from replay.history_compare import Comparison

WithVersion = Annotated[
    int, typer.Option("--with", min=1, metavar="VERSION", help="The definition version to compare with.")
]
UsersMax = Annotated[
    int | None, typer.Option("--users", min=1, metavar="N", help="Compare only so many users \\[default: all].")
]


def compare(
    ctx: typer.Context,
    version: WithVersion,
    users: UsersMax = None,
    *,
    check: Annotated[bool, typer.Option("--check", help="Exit with 3 if anything differs or is missing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare the values of this code's definition version with those of another, after the same events.

    Reads feature_history, which `shopstream replay --into history` writes, each version with its own code.
    """
    from replay.history_compare import compare_versions
    from sinks.lake_root import lake_of

    console = progress_console()
    console.print(f"reading feature_history for definition versions {DEFINITION_VERSION} and {version}", style="dim")
    lake = lake_of(invocation(ctx).settings())
    found = compare_versions(lake, DEFINITION_VERSION, version, users_max=users)
    emit(found.payload(), as_json=as_json, text=lambda out: _print(out, found))
    if check and (found.differences or not found.is_complete):
        raise typer.Exit(ExitCode.DIFFERENCE)


def retire(
    ctx: typer.Context,
    version: Annotated[int, typer.Argument(min=1, metavar="VERSION", help="The definition version to end.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Remove the states, fences and Feast definitions of a version that nobody reads any more.

    Refuses while a worker of that version runs. Its tables in the lake stay.
    """
    from feature_repo.retiring import applied_versions, check_retirable, retire_version

    settings = invocation(ctx).settings().require("kafka", "redis")
    check_retirable(version, applied_versions(settings))
    _refuse_while_workers_run(settings, version)
    if not yes:
        if as_json:
            raise typer.BadParameter("retire asks before it deletes; with --json, say --yes.")
        _confirm(version)
    retired = retire_version(settings, version)
    emit(
        retired._asdict(),
        as_json=as_json,
        text=lambda out: out.print(f"Definition version {version} is retired; {retired.state_count:,} states deleted."),
    )


def _refuse_while_workers_run(settings: Settings, version: int) -> None:
    from feature_repo.errors import DefinitionVersionError
    from replay.group_watch import GroupWatch
    from schemas.topics import describe_topics

    group_id = versioned(settings.worker.group_id.removesuffix(versioned("", joint="-")), version, joint="-")
    worker = settings.worker.model_copy(update={"group_id": group_id})
    other = settings.model_copy(update={"worker": worker})
    if GroupWatch(other, describe_topics(other)).is_live():
        raise DefinitionVersionError(
            f"Workers of definition version {version} run (consumer group {group_id}).",
            hint="Stop them first, and every reader of that version.",
        )


def _confirm(version: int) -> None:
    question = f"Delete all states of definition version {version} in Redis, and its Feast definitions?"
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # no answer: the end of the input, or Ctrl-C
        agreed = False
    if not agreed:
        progress_console().print("\nNothing is deleted.")
        raise typer.Exit(ExitCode.FAILED)


def _print(console: Console, found: "Comparison") -> None:
    counts = f"{found.event_count:,} events of {len(found.users):,} users"
    console.print(f"Definition versions {found.here} and {found.there}, after {counts}.", highlight=False)
    for count, version in ((found.only_here, found.here), (found.only_there, found.there)):
        if count:
            console.print(f"{count:,} more events have a row of version {version} only.", style="yellow")
    if found.lacking:
        console.print(f"Not in version {found.there}: {', '.join(found.lacking)}.", highlight=False)
    if not found.differences:
        console.print("No value differs.")
        return
    for name, difference in found.differences.items():
        console.print(
            f"[bold]{name}[/bold] differs for {len(difference.users):,} users, {difference.event_count:,} events"
        )
        for example in difference.examples:
            event = f"{example['user_id']} after {example['topic']}-{example['partition']} offset {example['offset']}"
            values = f"{_shown(example['here'])} in version {found.here}, {_shown(example['there'])} in {found.there}"
            console.print(f"  {event}: {values}", highlight=False, soft_wrap=True)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
