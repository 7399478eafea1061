"""Durations as people give them: `90s`, `30m`, `2h`, `3d`."""

import re
from typing import Final

import typer

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def duration_ms(option: str, text: str) -> int:
    """Return a duration in ms.

    Args:
        option: that it was given with, for the message.

    Raises:
        BadParameter: it is no duration.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration such as 90s, 30m, 2h or 3d", param_hint=option)
    return round(float(match[1]) * _UNIT_MS[match[2]])
