"""`--lake-version` and `--lake-time`: reading the lake as it was. For every command that reads it."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from config.settings import Settings
from replay.dead_letter_selection import parse_time
from sinks.lake_root import NEVER_PINNED, Lake, LakeRoot, Pin, lake_of, pinned
from sinks.tables import ALL_TABLES, DEAD_LETTERS, RAW_EVENTS

if TYPE_CHECKING:
    from sinks.lake_root import RootedTable

_VERSION: Final = re.compile(r"(?:([a-z_]+)=)?(\d{1,18})")


def lake_version_option(table: str) -> Any:
    """Return the option for a command that mainly reads `table`."""
    return typer.Option(
        "--lake-version",
        metavar="[TABLE=]N",
        show_default=False,
        help=f"Read version N of a table ({table} unless named), and the others as they were then. May be repeated.",
    )


LakeVersions = Annotated[list[str] | None, lake_version_option(RAW_EVENTS.name)]
LetterVersions = Annotated[list[str] | None, lake_version_option(DEAD_LETTERS.name)]
LakeTime = Annotated[
    str | None,
    typer.Option(
        "--lake-time",
        metavar="TIME",
        show_default=False,
        help="Read the lake as it was then: ISO 8601 with its zone, -2h (s, m, h, d, w), or milliseconds UTC.",
    ),
]


def chosen_lake(
    settings: Settings, versions: Sequence[str] | None, instant: str | None, *, table: str = RAW_EVENTS.name
) -> Lake:
    """Return the lake of the settings, as of what the two options say; erasures are always those of today.

    Tables that no version names are read as of the instant; without one, as of when the named versions were written,
    the newest of them where there are several.

    Args:
        versions: `N` or `TABLE=N`, as they were given.
        instant: as it was given.
        table: that a plain `N` means.

    Raises:
        BadParameter: an option says nothing that can be meant.
        LakeVersionError: a version is not there, or not any more.
    """
    named = _named(versions or (), table)
    moment = None if instant is None else _moment(instant)
    if not named:
        return lake_of(settings) if moment is None else lake_of(settings, Pin(instant=moment))
    lake = lake_of(settings)
    if moment is None:
        moment = max(_written(pinned(lake, Pin(named)), name) for name in named)
    return pinned(lake, Pin(named, moment))


def _written(lake: LakeRoot, table: str) -> datetime:
    from sinks.time_travel import version_instant

    address: RootedTable = lake / table
    return version_instant(address)


def _named(versions: Sequence[str], table: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in versions:
        match = _VERSION.fullmatch(text)
        if match is None:
            raise _bad("--lake-version", f"{text!r} is neither N nor TABLE=N, for example {table}=42")
        name = match[1] or table
        if name not in ALL_TABLES or name == NEVER_PINNED:
            tables = ", ".join(each for each in ALL_TABLES if each != NEVER_PINNED)
            raise _bad("--lake-version", f"{name!r} is none of the tables that can be read as they were: {tables}")
        if found.setdefault(name, int(match[2])) != int(match[2]):
            raise _bad("--lake-version", f"two versions of {name} are given")
    return found


def _moment(text: str) -> datetime:
    now_ms = time.time_ns() // 1_000_000
    try:
        moment_ms = parse_time(text, now_ms)
    except (ValueError, OverflowError, OSError) as error:
        raise _bad("--lake-time", str(error)) from None
    if moment_ms > now_ms:
        raise _bad("--lake-time", f"{text} has not come yet")
    return datetime.fromtimestamp(max(0, moment_ms) / 1000, UTC)  # before 1970 is before every lake


def _bad(option: str, why: str) -> typer.BadParameter:
    return typer.BadParameter(why, param_hint=option)
