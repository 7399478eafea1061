"""`shopstream replay`: builds states anew from what the lake holds."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from cli.priority import GIVES_WAY, NiceOption, give_way
from cli.replay_move import move_topics
from cli.replay_users import named_users, repair_named_users
from config.errors import ShopstreamError
from config.settings import Settings
from schemas.event import EVENT_TOPICS
from schemas.topics import TopicInfo, describe_topics

if TYPE_CHECKING:
    from replay.rebuild import PartitionPlan, PartitionResult, Rebuild

TELL_EVERY_S = 2.0


class Source(StrEnum):
    """What a replay reads."""

    LAKE = "lake"
    KAFKA = "kafka"


class Target(StrEnum):
    """Where a replay writes."""

    ONLINE = "online"


def replay(
    ctx: typer.Context,
    into: Annotated[Target, typer.Option("--into", help="Where to write: online is the states that readers see.")],
    topic: Annotated[str | None, typer.Option("--topic", help="Only this topic.")] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="With --topic: all its partitions, not only those that are REBUILDING.")
    ] = False,
    source: Annotated[Source, typer.Option("--source", help="What is folded.")] = Source.LAKE,
    user: Annotated[list[str] | None, typer.Option("--user", help="Only repair this user; may be repeated.")] = None,
    users_file: Annotated[
        str | None, typer.Option("--users-file", help="Users to repair, one id per line; - for standard input.")
    ] = None,
    from_epoch: Annotated[
        list[str] | None,
        typer.Option("--from-epoch", help="Move the states from this log to the topic's new one; may be repeated."),
    ] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=1.0, help="Most events to fold per second.")] = None,
    nice: NiceOption = GIVES_WAY,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be read and written.")] = False,
    json: JsonFlag = False,
) -> None:
    """Rebuild the states of partitions that were lost with Redis, while the worker goes on.

    A partition is LIVE again when each of its users has a complete state. It may be stopped at any time and run again:
    states that are right are left alone. It exits with 1 when a partition cannot be rebuilt, and says why.

    With --user or --users-file it mends the states of these users only. With --from-epoch it moves a topic that got
    more partitions, or was created again, to its new log.
    """
    users = named_users(user, users_file)
    if everything and (topic is None or users or from_epoch):
        raise typer.BadParameter(
            "--all needs --topic, and goes with neither users nor --from-epoch", param_hint="--all"
        )
    if from_epoch and (users or rate or source is Source.KAFKA):
        raise typer.BadParameter("--from-epoch moves all users, and folds the lake", param_hint="--from-epoch")
    if topic is not None and topic not in EVENT_TOPICS:
        raise typer.BadParameter(f"{topic!r} is none of {', '.join(EVENT_TOPICS)}", param_hint="--topic")
    del into  # there is one so far
    settings = invocation(ctx).settings().require("kafka", "redis")
    give_way(nice)
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


class _Run:
    """One call of the command."""

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
            "into": Target.ONLINE.value,
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
