"""`shopstream replay`: what happened, through the features' code once more."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from cli.lake_options import LakeTime, LakeVersions
from cli.priority import GIVES_WAY, NiceOption, giving_way
from cli.replay_move import move_topics
from cli.replay_range import lake_pin, replay_range
from cli.replay_users import named_users, repair_named_users
from config.errors import ShopstreamError
from config.settings import Settings
from replay.plan import ReplayRequest
from replay.ranges import BEGINNING, END
from replay.targets import Into
from schemas.event import EVENT_TOPICS
from schemas.topics import TopicInfo, describe_topics

if TYPE_CHECKING:
    from replay.rebuild import PartitionPlan, PartitionResult, Rebuild

TELL_EVERY_S = 2.0
_ONLINE_ONLY = "it goes with --into online"
_RANGE_ONLY = (
    "it does not go with --into online: a state there holds the user's whole log, and may be built again at any time"
)


class Source(StrEnum):
    """What a replay reads."""

    LAKE = "lake"
    KAFKA = "kafka"


def replay(
    ctx: typer.Context,
    into: Annotated[
        Into,
        typer.Option(
            "--into",
            help="Where to write: the states that readers see, the lake's feature_history, another topic, or nowhere.",
        ),
    ],
    topic: Annotated[str | None, typer.Option("--topic", help="Only this topic.")] = None,
    *,
    begin: Annotated[
        str | None,
        typer.Option("--from", metavar="T|OFFSETS", help="A time with its zone, -2h, or topic:partition=offset,…"),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="T|OFFSETS", help="Where the range ends; not included.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="With --topic: all its partitions, not only those that are REBUILDING.")
    ] = False,
    source: Annotated[Source, typer.Option("--source", help="What is folded.")] = Source.LAKE,
    user: Annotated[list[str] | None, typer.Option("--user", help="Only this user; may be repeated.")] = None,
    users_file: Annotated[
        str | None, typer.Option("--users-file", help="Only these users, one id per line; - for standard input.")
    ] = None,
    to_topic: Annotated[
        str | None, typer.Option("--to-topic", metavar="TOPIC", help="With --into topic: where to publish.")
    ] = None,
    from_epoch: Annotated[
        list[str] | None,
        typer.Option("--from-epoch", help="Move the states from this log to the topic's new one; may be repeated."),
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=1.0, help="Most events to fold per second.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes for a range \\[default: 1].")
    ] = None,
    nice: NiceOption = GIVES_WAY,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a replay of this range that stopped.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin a replay of this range anew.")] = False,
    lake_version: LakeVersions = None,
    lake_time: LakeTime = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be read and written.")] = False,
    json: JsonFlag = False,
) -> None:
    """Send what happened through the features' code once more, beside live: from the lake or from Kafka.

    --into history, topic and nothing take a range: --from and --to, everything by default. They warm up by 25 hours,
    stop and go on (--resume), and never change what live writes.

    --into online rebuilds the states of partitions that were lost with Redis, while the worker goes on. A partition is
    LIVE again when each of its users has a complete state; it may be stopped at any time and run again: states that are
    right are left alone. With --user or --users-file it mends the states of these users only. With --from-epoch it
    moves a topic that got more partitions, or was created again, to its new log.

    Exit codes: 1 when something cannot be done, and it says why; 130 when it was stopped, and can be gone on with.
    """
    users = named_users(user, users_file)
    _refuse(
        [
            ("--topic", topic not in {None, *EVENT_TOPICS}, f"{topic!r} is none of {', '.join(EVENT_TOPICS)}"),
            ("--to-topic", (into is Into.TOPIC) != (to_topic is not None), "it goes with --into topic, which needs it"),
            ("--resume", resume and restart, "it goes on, and --restart begins anew: choose one"),
            ("--lake-time", bool(lake_version or lake_time) and source is Source.KAFKA, "Kafka is read as it is now"),
        ]
    )
    if into is not Into.ONLINE:
        _refuse([("--all", everything, _ONLINE_ONLY), ("--from-epoch", from_epoch, _ONLINE_ONLY)])
        ctx.with_resource(giving_way(nice))
        _replay_range(
            ctx, into, source, (begin, end), topic, users, to_topic, (lake_version, lake_time),
            running=(rate, workers or 1, resume, restart), dry_run=dry_run, json=json,
        )  # fmt: skip
        return
    ranged = (("--from", begin), ("--to", end), ("--workers", workers), ("--resume", resume), ("--restart", restart))
    _refuse(
        [
            *((option, value, _RANGE_ONLY) for option, value in ranged),
            ("--lake-time", lake_version or lake_time, _RANGE_ONLY),
            (
                "--all",
                everything and (topic is None or users or from_epoch),
                "it needs --topic, and goes with neither users nor --from-epoch",
            ),
            (
                "--from-epoch",
                from_epoch and (users or rate or source is Source.KAFKA),
                "it moves all users, and folds the lake",
            ),
        ]
    )
    settings = invocation(ctx).settings().require("kafka", "redis")
    ctx.with_resource(giving_way(nice))
    described = describe_topics(settings)
    topics = {name: described[name] for name in EVENT_TOPICS if topic in {None, name}}
    if users is not None:
        repair_named_users(settings, topics, users, source=source.value, rate=rate, dry_run=dry_run, json=json)
        return
    if from_epoch:
        move_topics(settings, topics, from_epoch, dry_run=dry_run, json=json)
        return
    run = _Run(settings, topics, source, rate, everything=everything, dry_run=dry_run, console=progress_console())
    payload = asyncio.run(run.run())
    emit(payload, as_json=json, text=lambda out: _print(out, payload))
    if payload["failures"]:
        raise typer.Exit(ExitCode.FAILED)


def _refuse(rules: Sequence[tuple[str, object, str]]) -> None:
    """Refuse the first combination that means nothing: (option, whether it is so, why)."""
    for option, is_wrong, why in rules:
        if is_wrong:
            raise typer.BadParameter(why, param_hint=option)


def _replay_range(
    ctx: typer.Context,
    into: Into,
    source: Source,
    bounds: tuple[str | None, str | None],
    topic: str | None,
    users: Sequence[str] | None,
    to_topic: str | None,
    as_of: tuple[list[str] | None, str | None],
    *,
    running: tuple[float | None, int, bool, bool],
    dry_run: bool,
    json: bool,
) -> None:
    from replay.range_replay import Running

    settings = invocation(ctx).settings().require("kafka")
    pin = lake_pin(settings, *as_of) if any(as_of) else None
    described = describe_topics(settings)
    topics = {name: described[name] for name in EVENT_TOPICS if topic in {None, name}}
    begin, end = bounds
    request = ReplayRequest(
        source=source.value,
        into=into,
        begin=begin or BEGINNING,
        end=end or END,
        topics=tuple(topics),
        users=tuple(users or ()),
        to_topic=to_topic or "",
        as_of="" if pin is None else pin.name,
    )
    replay_range(settings, topics, request, Running(*running), pin=pin, dry_run=dry_run, json=json)


class _Run:
    """One rebuild."""

    def __init__(
        self,
        settings: Settings,
        topics: Mapping[str, TopicInfo],
        source: Source,
        rate: float | None,
        *,
        everything: bool,
        dry_run: bool,
        console: Console,
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._source = source
        self._rate = rate
        self._everything = everything
        self._dry_run = dry_run
        self._console = console
        self._started_s = time.monotonic()

    async def run(self) -> dict[str, Any]:
        """Plan and rebuild; return the JSON form of the result."""
        from replay.rebuild import PartitionResult
        from replay.repair_opening import opened_rebuild

        async with opened_rebuild(self._settings, self._source.value, rate=self._rate) as rebuild:
            plans = await rebuild.plan(self._topics, everything=self._everything)
            self._announce(plans)
            outcomes = [] if self._dry_run else await self._rebuild(rebuild, plans)
        results = [outcome for outcome in outcomes if isinstance(outcome, PartitionResult)]
        failures = [str(outcome) for outcome in outcomes if isinstance(outcome, ShopstreamError)]
        for failure in failures:
            self._console.print(failure, style="red", highlight=False, soft_wrap=True)
        return {
            "into": Into.ONLINE.value,
            "source": self._source.value,
            "dry_run": self._dry_run,
            "planned": [planned.payload() for planned in plans],
            "rebuilt": [result.payload() for result in results],
            "failures": failures or [planned.problem for planned in plans if planned.problem],
            "seconds": round(time.monotonic() - self._started_s, 1),
        }

    def _announce(self, plans: "Sequence[PartitionPlan]") -> None:
        for planned in plans:
            log = planned.log
            line = (
                f"{log.topic}-{log.partition}: reads {planned.event_count:,} events of the {self._source}, writes up "
                f"to {planned.user_count:,} states to Redis, and a row for each to feature_log and repairs"
            )
            self._console.print(planned.problem or line, highlight=False, soft_wrap=True)

    async def _rebuild(
        self, rebuild: "Rebuild", plans: "Sequence[PartitionPlan]"
    ) -> "list[PartitionResult | ShopstreamError]":
        work = asyncio.create_task(rebuild.rebuild_all(plans))
        events = sum(planned.event_count for planned in plans)
        started_s = time.monotonic()
        while not (await asyncio.wait([work], timeout=TELL_EVERY_S))[0]:
            come, seconds = rebuild.progress(), time.monotonic() - started_s
            self._console.print(
                f"{come.event_count:,} of {events:,} events folded ({come.event_count / seconds:,.0f}/s), "
                f"{come.done_count:,} users done, {come.pending_count:,} to go",
                highlight=False,
            )
        return await work


def _print(console: Console, payload: Mapping[str, Any]) -> None:
    if not payload["planned"]:
        console.print("No partition is REBUILDING.")
        return
    if payload["dry_run"]:
        table = Table("topic", "partition", "status", "first offset", "end offset", "events", "users")
        for planned in payload["planned"]:
            table.add_row(*("-" if planned[name] is None else str(planned[name]) for name in _PLAN_COLUMNS))
        console.print(table)
        return
    table = Table("topic", "partition", "repaired", "right already", "status")
    for result in payload["rebuilt"]:
        table.add_row(*map(str, result.values()))
    if payload["rebuilt"]:
        console.print(table)
    console.print(f"{len(payload['rebuilt'])} of {len(payload['planned'])} partitions, {payload['seconds']} s")


_PLAN_COLUMNS = ("topic", "partition", "status", "first_offset", "end_offset", "events", "users")
