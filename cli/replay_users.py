"""`shopstream replay --into online --user …`: users whose states a bug has spoiled are folded anew."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from cli.context import emit, progress_console
from cli.following import followed
from config.settings import Settings
from schemas.topics import TopicInfo


def named_users(users: Sequence[str] | None, users_file: str | None) -> list[str] | None:
    """Return the users that were named, each once; None if none of the options was given.

    Args:
        users_file: a file of one id per line, `-` for standard input.
    """
    if users is None and users_file is None:
        return None
    found = list(users or ())
    if users_file is not None:
        try:
            text = sys.stdin.read() if users_file == "-" else Path(users_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{users_file} cannot be read ({error})", param_hint="--users-file") from error
        found += [line.strip() for line in text.splitlines()]
    found = [user for user in dict.fromkeys(found) if user]
    if not found:
        raise typer.BadParameter("no user is named", param_hint="--users-file" if users_file else "--user")
    return found


def repair_named_users(
    settings: Settings,
    topics: Mapping[str, TopicInfo],
    users: Sequence[str],
    *,
    source: str,
    rate: float | None,
    dry_run: bool,
    json: bool,
) -> None:
    """Repair users, and print what was done.

    Raises:
        UnknownUsersError: of some there is no event; nothing was changed.
        ShopstreamError: something does not answer; what was repaired stays.
    """
    payload = asyncio.run(_repair(settings, topics, users, source, rate=rate, dry_run=dry_run))
    emit(payload, as_json=json, text=lambda out: _print(out, payload))


async def _repair(
    settings: Settings,
    topics: Mapping[str, TopicInfo],
    users: Sequence[str],
    source: str,
    *,
    rate: float | None,
    dry_run: bool,
) -> dict[str, Any]:
    from replay.repair_opening import opened_repair_ports
    from replay.repair_selection import SelectionRepair, stored_ids
    from schemas.privacy import Pseudonyms

    console = progress_console()
    async with opened_repair_ports(settings, source, rate=rate) as (ports, _):
        work = SelectionRepair(ports, topics)
        selections = await followed(
            work.select(stored_ids(users, Pseudonyms.in_use(settings.privacy))),
            lambda: f"looking for the events of {len(users):,} users",
            console,
        )
        events = sum(sum(selection.event_counts.values()) for selection in selections)
        named = {user for selection in selections for user in selection.event_counts}
        console.print(
            f"{len(named):,} users: reads {events:,} events of them in {len(selections)} partitions of the {source}, "
            "replaces the states that are wrong, and writes a row for each to feature_log and repairs",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        payload: dict[str, Any] = {
            "into": "online", "source": source, "dry_run": dry_run, "users": len(named), "events": events
        }  # fmt: skip
        if dry_run:
            return payload
        report = await followed(work.repair(selections), lambda: _line(work.progress()), console)
    return payload | report.payload()


def _line(come: Any) -> str:
    return f"{come.event_count:,} events folded, {come.done_count:,} states done, {come.pending_count:,} to go"


def _print(console: Console, payload: Mapping[str, Any]) -> None:
    if payload["dry_run"]:
        return
    console.print(
        f"{payload['users']:,} users: {payload['wrong']:,} were wrong and are mended, {payload['right']:,} right."
    )
