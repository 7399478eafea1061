"""`shopstream replay --into online --from-epoch …`: the states of a topic are moved to its new log."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, emit, progress_console
from cli.following import followed
from config.errors import ShopstreamError
from config.settings import Settings
from schemas.topics import TopicInfo


def move_topics(
    settings: Settings, topics: Mapping[str, TopicInfo], from_epochs: Sequence[str], *, dry_run: bool, json: bool
) -> None:
    """Move topics, and print what was done; exits with 1 if one could not be moved.

    Raises:
        MoveRefusedError: a log that was named is none of any topic's.
        ShopstreamError: something does not answer.
    """
    payload = asyncio.run(_move(settings, topics, from_epochs, dry_run=dry_run))
    emit(payload, as_json=json, text=lambda out: _print(out, payload))
    if payload["failures"]:
        raise typer.Exit(ExitCode.FAILED)


async def _move(
    settings: Settings, topics: Mapping[str, TopicInfo], from_epochs: Sequence[str], *, dry_run: bool
) -> dict[str, Any]:
    from replay.log_move import LogMove, MoveResult
    from replay.log_move_plan import MovePlanner
    from replay.log_move_ports import opened_log_move

    console = progress_console()
    outcomes: list[MoveResult | ShopstreamError] = []
    async with opened_log_move(settings, topics) as ports:
        plans = await followed(MovePlanner(ports).plan(topics, from_epochs), lambda: "looking at both logs", console)
        for planned in plans:
            _announce(console, planned)
        if not dry_run:
            move = LogMove(ports)
            outcomes = await followed(move.move_all(plans), lambda: _line(move.progress()), console)
    failures = [str(outcome) for outcome in outcomes if isinstance(outcome, ShopstreamError)]
    for failure in failures:
        console.print(failure, style="red", highlight=False, soft_wrap=True)
    return {
        "into": "online",
        "dry_run": dry_run,
        "planned": [planned.payload() for planned in plans],
        "moved": [outcome.payload() for outcome in outcomes if isinstance(outcome, MoveResult)],
        "failures": failures or [planned.problem for planned in plans if planned.problem],
    }


def _announce(console: Console, planned: Any) -> None:
    console.print(
        planned.problem
        or f"{planned.topic}: from {planned.from_epoch} to {planned.to_epoch}: folds {planned.event_count:,} events of "
        f"raw_events, replaces the states of {planned.user_count:,} users in Redis, and writes a row for each to "
        "feature_log and repairs",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if planned.unread_count:
        console.print(
            f"{planned.topic}: {planned.unread_count:,} records of partitions that were there before were read by no "
            "worker. Those that came before the topic grew, of users who belong elsewhere now, become dead letters "
            "(misrouted): `shopstream dlq redrive` brings them back.",
            style="yellow", highlight=False, soft_wrap=True,
        )  # fmt: skip


def _line(come: Any) -> str:
    return f"{come.event_count:,} events folded, {come.done_count:,} states moved, {come.pending_count:,} to go"


def _print(console: Console, payload: Mapping[str, Any]) -> None:
    if not payload["planned"]:
        console.print("The stored states are of the logs that the topics are now: there is nothing to move.")
        return
    table = Table("topic", "from", "to", "moved", "there already", "removed")
    for result in payload["moved"]:
        table.add_row(*map(str, result.values()))
    if payload["moved"]:
        console.print(table)
