"""`shopstream schema rehearse`: what a new schema would do to features, before it is deployed."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from cli.lake_options import LakeTime, LakeVersions, chosen_lake
from cli.schema_checks import check_one, print_checks, read_schema, topic_for
from replay.dead_letter_selection import parse_time
from schemas.event import EVENT_TOPICS
from schemas.privacy import Pseudonyms
from sinks.erasures import read_tombstones

if TYPE_CHECKING:
    from replay.rehearse_report import Rehearsal, WayReport

EXAMPLES_SHOWN: Final = 20
_WAYS: Final = {
    "read": "recorded events, read by it",
    "written": "written by it, decoded as the system is now",
    "left out": "the same, where producers leave out what they may leave out now",
}


def rehearse(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="NEW.avsc", exists=True, dir_okay=False, readable=True, show_default=False)
    ],
    topic: Annotated[
        str | None, typer.Option("--topic", help="The topic, where the record's name does not tell it.")
    ] = None,
    events: Annotated[
        int, typer.Option("--events", min=1, metavar="N", help="About so many recorded events, the newest.")
    ] = 100_000,
    first: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            show_default=False,
            help="Events appended since then: ISO 8601 with zone, -2h, ms.",
        ),
    ] = None,
    lake_version: LakeVersions = None,
    lake_time: LakeTime = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Replay recorded events under the old and the new schema, and list which features change for how many users.

    First the ordinary check of compatibility is made. Exit code 3 if it fails, if any feature changes, or if any event
    would become a dead letter. Nothing is written or registered.
    """
    from replay.rehearse import RehearsalOptions
    from replay.rehearse import rehearse as rehearsed
    from schemas.registry import RegistryClient

    settings = invocation(ctx).settings().require("registry")
    text = read_schema(file)
    named = _topic(file, text, topic)
    lake = chosen_lake(settings, lake_version, lake_time)
    console = progress_console()
    options = RehearsalOptions(named, text, settings.events, events, None if first is None else _moment(first))
    tombstones = read_tombstones(lake, Pseudonyms.with_key_of(settings.privacy))
    started_s = time.monotonic()
    client = RegistryClient(settings.registry)
    try:
        checked = check_one(client, file, text, named)
        print_checks(console, [checked])
        found = rehearsed(
            lake, client, options, tombstones, lambda line: console.print(line, style="dim", highlight=False)
        )
    finally:
        client.close()
    payload = {"check": checked, **found.payload(), "seconds": round(time.monotonic() - started_s, 1)}
    emit(payload, as_json=as_json, text=lambda out: _print(out, found, checked))
    if found.differs or not checked["compatible"]:
        raise typer.Exit(ExitCode.DIFFERENCE)


def _topic(file: Path, text: str, given: str | None) -> str:
    from schemas.loading import load, topic_of

    if given is not None and given not in EVENT_TOPICS:
        raise typer.BadParameter(f"{given!r} is none of {', '.join(EVENT_TOPICS)}", param_hint="--topic")
    known = topic_of(load(text).name)
    named = given if given is not None and known is None else topic_for(file, text)
    if named not in EVENT_TOPICS or given not in {None, named}:
        raise typer.BadParameter(f"{file} is a schema of {named}, not of {given or 'events'}", param_hint="--topic")
    return named


def _moment(text: str) -> int:
    try:
        return parse_time(text, time.time_ns() // 1_000_000)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint="--from") from None


def _print(console: Console, found: "Rehearsal", checked: Mapping[str, Any]) -> None:
    for notice in found.notices:
        console.print(f"- {notice}", highlight=False, markup=False, soft_wrap=True)
    for way in found.ways:
        if way.differs:
            _print_way(console, way)
    unlike = [way.way.value for way in found.ways if way.differs and not way.is_warning]
    verdict = f"features or dead letters change when it is {' and '.join(unlike)}" if unlike else "0 features change"
    incompatible = "" if checked["compatible"] else "; and it is incompatible"
    console.print(
        f"{found.event_count:,} events of {found.user_count:,} users replayed: {verdict}{incompatible}",
        highlight=False,
        soft_wrap=True,
    )


def _print_way(console: Console, way: "WayReport") -> None:
    console.print(f"{'warning' * way.is_warning or 'changed'}: {_WAYS[way.way.value]}", style="yellow", highlight=False)
    for reason, count in way.refused.items():
        console.print(f"  {count:,} events become dead letters, {reason}", highlight=False, soft_wrap=True)
    if way.refusal:
        console.print(f"  the first because: {way.refusal}", highlight=False, markup=False, soft_wrap=True)
    if not way.users_by_feature:
        return
    table = Table("feature", "users", "example", "old", "new")
    for feature, users in way.users_by_feature.most_common(EXAMPLES_SHOWN):
        example = way.examples[feature]
        table.add_row(feature, f"{users:,}", example.user_id, str(example.old), str(example.new))
    console.print(table)
    if len(way.users_by_feature) > EXAMPLES_SHOWN:
        console.print(f"  and {len(way.users_by_feature) - EXAMPLES_SHOWN} more features", highlight=False)
