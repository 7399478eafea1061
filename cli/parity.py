"""`shopstream parity`: are live, Kafka and the lake the same, user by user and feature by feature?"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from cli.interrupts import termination_unwinds
from config.settings import Settings
from features.catalog import DEFINITION_VERSION
from schemas.event import EVENT_TOPICS
from schemas.topics import describe_topics

if TYPE_CHECKING:
    from replay.parity import ParityReport

ALL = "all"
USERS_SHOWN = 5
DIFFERENCES_SHOWN = 8
TELL_EVERY_S = 2.0


def parity(
    ctx: typer.Context,
    users: Annotated[
        str, typer.Option(metavar="N|all", help="How many users, the same ones each time, or all of them.")
    ] = "1000",
    as_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIME",
            help="Instant of the values: ISO 8601 with a zone, or ms UTC; may be given several times "
            "\\[default: each user's newest event, 7 min, 31 min and 3 h after it, and one drawn within 26 h].",
        ),
    ] = None,
    *,
    demo: Annotated[
        bool, typer.Option("--demo", help="Compare what the last `shopstream demo` left; so without a stack.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Compare each user's states and features in Redis, in a replay of Kafka and in a replay of the lake.

    It reads only, and may run beside live workers: each user is compared at the version that Redis held. It prints the
    first differences with the events behind them. Exit code 3 on any difference; 1 when something could not be compared
    that ought to be, and says why.
    """
    count = _count(users)
    instants = [_instant(text) for text in as_of or ()]
    settings = invocation(ctx).settings()
    console = progress_console()
    started_s = time.monotonic()
    with termination_unwinds(), _stack(settings, console, demo=demo) as own:
        report = _compare(own, count, instants, _teller(console))
    payload = report.payload(USERS_SHOWN) | {"seconds": round(time.monotonic() - started_s, 1)}
    emit(payload, as_json=json, text=lambda out: _print(out, payload))
    if payload["differences"]:
        raise typer.Exit(ExitCode.DIFFERENCE)
    if payload["failures"]:
        raise typer.Exit(ExitCode.FAILED)


def _count(text: str) -> int | None:
    if text == ALL:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise typer.BadParameter(f"{text!r} is neither a number of users nor {ALL!r}", param_hint="--users")
    return int(text)


def _instant(text: str) -> int:
    from replay.dead_letter_selection import parse_time

    try:
        return parse_time(text, time.time_ns() // 1_000_000)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--as-of") from error


@contextmanager
def _stack(settings: Settings, console: Console, *, demo: bool) -> Iterator[Settings]:
    """Yield the settings of what is compared: those given, or of the stack that a demo has left, which is started."""
    from cli.demo_run import has_left_data, left_stack

    is_set = settings.kafka.bootstrap_servers or settings.redis.url.get_secret_value() or settings.registry.url
    if not demo and (is_set or not has_left_data(settings)):
        yield settings.require("kafka", "registry", "redis")
        return
    with left_stack(settings, lambda line: console.print(line, style="dim", highlight=False)) as own:
        yield own


def _compare(
    settings: Settings, count: int | None, instants: Sequence[int], tell: Callable[[str], None]
) -> "ParityReport":
    from cli.parity_ports import opened_parity
    from replay.parity import ParityPlan, compare
    from replay.parity_content import instants_at, instants_from_newest

    described = describe_topics(settings)
    topics = {topic: described[topic] for topic in EVENT_TOPICS}
    plan = ParityPlan(topics, count, instants_at(instants) if instants else instants_from_newest)
    tell("Opening the feature store")
    with opened_parity(settings) as ports:
        return compare(ports, plan, tell)


def _teller(console: Console) -> Callable[[str], None]:
    """Return what prints a line at most every two seconds."""
    told_s = float("-inf")

    def tell(line: str) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TELL_EVERY_S:
            told_s = time.monotonic()
            console.print(line, style="dim", highlight=False, soft_wrap=True)

    return tell


def _print(console: Console, payload: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("way", "states", "content hash"):
        table.add_column(heading, justify="right" if heading == "states" else "left")
    for name, way in payload["ways"].items():
        table.add_row(name, f"{way['states']:,}", way["hash"])
    console.print(table)
    for line in payload["incomplete"]:
        _say(console, f"[yellow]incomplete:[/yellow] {escape(line)}")
    for user in payload["first_differing"]:
        _print_user(console, user)
    if payload["users_differing"] > len(payload["first_differing"]):
        _say(console, f"… and {payload['users_differing'] - len(payload['first_differing']):,} more users")
    for line in payload["failures"]:
        _say(console, f"[red]could not be compared:[/red] {escape(line)}")
    _say(
        console,
        f"{payload['users']:,} users, {payload['states']:,} states, {payload['values']:,} values of features "
        f"(definition version {DEFINITION_VERSION}), {payload['seconds']} s",
    )
    _say(console, f"differences {payload['differences']}")


def _print_user(console: Console, user: Mapping[str, Any]) -> None:
    groups = " | ".join(" = ".join(group) for group in user["agreeing"])
    _say(console, f"\n[bold]{escape(user['user_id'])}[/bold]  {groups}")
    for difference in user["differences"][:DIFFERENCES_SHOWN]:
        what = f"state of {difference['topic']}" if difference["topic"] else difference["feature"]
        at = f" at {_moment(difference['as_of_ms'])}" if difference["as_of_ms"] is not None else ""
        values = ", ".join(f"{way} {value}" for way, value in difference["values"].items())
        _say(console, escape(f"  {what}{at}: {values}"))
    hidden = len(user["differences"]) - DIFFERENCES_SHOWN
    if hidden > 0:
        _say(console, f"  … and {hidden} more")
    for cause in user["causes"]:
        _say(console, f"  [red]{escape(cause)}[/red]")
    if user["events"]:
        events = Table("", "event", "offset", "event time", "outcome", "in", box=None, pad_edge=False)
        for event in user["events"]:
            what = f"{event['kind']} {event['product_id'] or ''}".strip()
            place = f"{event['topic']}-{event['partition']}:{event['offset']}"
            mark = "[red]->[/red]" if event["is_named"] else ""
            moment = _moment(event["event_time_ms"])
            events.add_row(mark, escape(what), place, moment, event["outcome"], ", ".join(event["ways"]))
        console.print(events)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True)


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
