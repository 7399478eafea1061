"""What every command shares: settings of the invocation, exit codes, one JSON object or text for people."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Any

import typer
from rich.console import Console

from config.settings import Settings, load_settings


class ExitCode(IntEnum):
    """The documented exit codes."""

    DONE = 0
    FAILED = 1
    WRONG_USE = 2
    DIFFERENCE = 3


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; progress goes to stderr.")]


@dataclass
class Invocation:
    """The global flags of one call of the command."""

    debug: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)

    def settings(self, **more: Any) -> Settings:
        """Load the settings, with these flags on top.

        Raises:
            SettingsError: something in them cannot be used.
        """
        return load_settings({**self.overrides, **more})


def invocation(ctx: typer.Context) -> Invocation:
    """Return the global flags that the main callback stored."""
    found = ctx.find_object(Invocation)
    return found if found is not None else Invocation()


def progress_console() -> Console:
    """Return the console for progress and logs: stderr, so that stdout holds results only."""
    return Console(stderr=True)


def emit(payload: Any, *, as_json: bool, text: Callable[[Console], None]) -> None:
    """Print a result once: as one JSON object, or as `text` draws it."""
    if as_json:
        sys.stdout.write(json.dumps(payload, indent=2, default=str) + "\n")
    else:
        text(Console())
