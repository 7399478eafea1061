"""`shopstream dlq`: what could not be read, why, and what became of it; and once more."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.context import JsonFlag, emit, invocation, progress_console
from cli.lake_options import LakeTime, LetterVersions, chosen_lake
from replay.dead_letter_selection import PositionName, RedriveOptions, parse_position, parse_time
from schemas.dead_letter import Reason
from schemas.event import EVENT_TOPICS
from sinks.letter_reads import LetterFilter
from sinks.tables import DEAD_LETTERS

if TYPE_CHECKING:
    from replay.redrive_finish import FinishReport
    from replay.redrive_report import RedriveReport

_FATES = ("open", "in_flight", "redriven", "failed_again", "applied", "all")
_TIME = "ISO 8601 with its zone, -2h (s, m, h, d, w), or milliseconds UTC"

ReasonOption = Annotated[
    str | None, typer.Option(metavar="REASON", help=f"Only of this reason: {', '.join(Reason)}.", show_default=False)
]
TopicOption = Annotated[str | None, typer.Option(metavar="TOPIC", help="Only of this topic.", show_default=False)]
PartitionOption = Annotated[
    int | None, typer.Option(min=0, metavar="P", help="Only of this partition.", show_default=False)
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help=f"Appended at or after: {_TIME}.", show_default=False)
]
ToOption = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="Appended before, in the same forms.", show_default=False)
]

app = typer.Typer(no_args_is_help=True, help="Dead letters: list them, look at one, publish them again.")


@app.callback()
def dlq() -> None:
    """Dead letters: list them, look at one, publish them again."""


@app.command("list")
def list_(
    ctx: typer.Context,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    partition: PartitionOption = None,
    from_time: FromOption = None,
    to_time: ToOption = None,
    fate: Annotated[str, typer.Option(metavar="FATE", help=f"One of {', '.join(_FATES)}.")] = "open",
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="Show so many of them; all are counted.")] = 20,
    lake_version: LetterVersions = None,
    lake_time: LakeTime = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Show dead letters, newest first, and count them by reason and by fate. Reads the lake only.

    Fates: open (nothing was done), in_flight (published again, not read yet), redriven (published again and read),
    failed_again (published again and a letter anew), applied (readable when a worker read it a second time).
    """
    if fate not in _FATES:
        raise typer.BadParameter(f"{fate!r} is none of {', '.join(_FATES)}", param_hint="--fate")
    wanted = _filter(reason, topic, partition, from_time, to_time)
    from cli.dlq_views import list_payload, print_list
    from replay.dead_letter_fates import read_fates
    from sinks.letter_reads import letter_heads

    lake = chosen_lake(invocation(ctx).settings(), lake_version, lake_time, table=DEAD_LETTERS.name)
    payload = list_payload(lake, read_fates(lake, letter_heads(lake, wanted)), fate, limit)
    emit(payload, as_json=as_json, text=lambda console: print_list(console, payload))


@app.command()
def show(
    ctx: typer.Context,
    position: Annotated[
        list[str], typer.Argument(metavar="TOPIC/PARTITION/OFFSET", show_default=False, help="Or three arguments.")
    ],
    lake_version: LetterVersions = None,
    lake_time: LakeTime = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Show one letter: its bytes, what they say as far as they can be read, and each redrive of its record.

    With --json, `key_base64` and `value_base64` hold all of its bytes.
    """
    name = _position("/".join(position))
    from cli.dlq_views import print_letter, read_letter

    settings = invocation(ctx).settings()
    lake = chosen_lake(settings, lake_version, lake_time, table=DEAD_LETTERS.name)
    payload = read_letter(settings, lake, name)
    emit(payload, as_json=as_json, text=lambda console: print_letter(console, payload))


@app.command()
def redrive(
    ctx: typer.Context,
    positions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOPIC/PARTITION/OFFSET]…", show_default=False, help="Only these letters."),
    ] = None,
    reason: ReasonOption = None,
    topic: TopicOption = None,
    partition: PartitionOption = None,
    from_time: FromOption = None,
    to_time: ToOption = None,
    attempts_max: Annotated[
        int, typer.Option(min=1, metavar="N", help="Leave records that were redriven so often, unless named.")
    ] = 3,
    patience: Annotated[
        float, typer.Option(min=1.0, metavar="SECONDS", help="Wait so long for a worker that does not move.")
    ] = 60.0,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    no_rebuild: Annotated[
        bool, typer.Option("--no-rebuild", help="Publish only; a later redrive rebuilds the users.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Publish open letters again that can be read now, and rebuild the features of the users they belong to.

    Their bytes stay as they were; the key becomes the user's id, and the partition is the one where it belongs. The
    rest stays, and the report says why. Each letter is published once, also if this is interrupted and run again.
    A record that fails again is a new letter with the history of the old one. What an earlier call has left is
    finished, too.

    Exit codes: 0 done, whatever stays; 1 failed, or no worker reads (run it again); 2 wrong use.
    """
    wanted = _filter(reason, topic, partition, from_time, to_time)
    if positions and wanted != LetterFilter():
        raise typer.BadParameter("name letters or give filters, not both", param_hint="TOPIC/PARTITION/OFFSET")
    options = RedriveOptions(
        wanted=wanted,
        named=tuple(_position(text) for text in positions or ()),
        attempts_max=attempts_max,
        dry_run=dry_run,
    )
    from replay.redrive_run import redrive as run

    console = progress_console()
    report, finished = run(
        invocation(ctx).settings(),
        options,
        rebuild=not no_rebuild,
        patience_s=patience,
        progress=lambda line: console.print(line, style="dim", highlight=False),
    )
    payload = report.payload() | {"rebuilt": None if finished is None else finished.payload()}
    emit(payload, as_json=as_json, text=lambda out: _print_report(out, report, finished))


def _filter(
    reason: str | None, topic: str | None, partition: int | None, from_time: str | None, to_time: str | None
) -> LetterFilter:
    if reason is not None and reason not in list(Reason):
        raise typer.BadParameter(f"{reason!r} is none of {', '.join(Reason)}", param_hint="--reason")
    if topic is not None and topic not in EVENT_TOPICS:
        raise typer.BadParameter(f"{topic!r} is none of {', '.join(EVENT_TOPICS)}", param_hint="--topic")
    now_ms = time.time_ns() // 1_000_000
    return LetterFilter(
        reason=reason,
        topic=topic,
        partition=partition,
        from_ms=_time(from_time, now_ms, "--from"),
        to_ms=_time(to_time, now_ms, "--to"),
    )


def _time(text: str | None, now_ms: int, option: str) -> int | None:
    try:
        return None if text is None else parse_time(text, now_ms)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _position(text: str) -> PositionName:
    try:
        return parse_position(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _print_report(console: Console, report: "RedriveReport", finished: "FinishReport | None") -> None:
    rows: list[dict[str, Any]] = report.payload()["verdicts"]
    if rows:
        table = Table("reason", "outcome", "letters", "for example", "why")
        for row in rows:
            outcome = row["verdict"]
            if outcome == "redrive":
                outcome = "would be published" if report.dry_run else "published"
            table.add_row(row["reason"], outcome, f"{row['letters']:,}", row["example"], Text(row["why"]))
        console.print(table)
    else:
        console.print("No letter was selected.")
    if report.recovered:
        console.print(f"{report.recovered:,} had been published by an earlier redrive that did not end")
    if report.dry_run:
        console.print("Nothing was published: a dry run.")
    elif finished is None:
        console.print("The users' features were not rebuilt; `shopstream dlq redrive` does it.")
    elif finished.users or finished.failed_again or finished.gone:
        users = ", ".join(f"{count:,} of {topic}" for topic, count in finished.users.items()) or "none"
        console.print(f"users rebuilt: {users}; {finished.changed:,} states were changed by it", highlight=False)
        if finished.failed_again:
            console.print(f"{finished.failed_again:,} failed again: each is a new letter")
        if finished.gone:
            console.print(f"{finished.gone:,} are gone: removed by retention or erased before they were read")
