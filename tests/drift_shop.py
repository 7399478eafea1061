"""A small shop in a lake for tests of drift: history, a reference, quiet windows, a shift that nobody could miss."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from config.settings import Settings
from tests.quality.proof import settings_in
from tests.quality.world import Plan, write
from training.drift_reference import take_reference
from training.drift_windows import Cause

# nearly all categories are others, so that few events show it
PLAN: Final = Plan(
    seed=5, history=48, stable=2, shifted=5, events=800, users=800, amplitude=0.0, shift=0.9, null_share=0.0
)
QUIET: Final = 2 + 4 + 2
ROW: Final = 3


def settings_of(home: Path, **drift: Any) -> Settings:
    """Return settings for which its windows are large enough."""
    return settings_in(home, **{"min_rows": 50, "windows_in_row": ROW, **drift})


def make(home: Path) -> None:
    """Make the shop, and take its history as reference for model 7."""
    write(home / "lake", PLAN)
    take_reference(settings_of(home), *PLAN.history_ms, "7")


def copied(home: Path, to: Path) -> Settings:
    """Return settings of a copy that a test may change."""
    shutil.copytree(home, to)
    return settings_of(to)


class Asked:
    """Takes requests for a retraining and keeps them.

    Args:
        dies_after: so many, its process is killed with the next; None for never.
    """

    def __init__(self, dies_after: int | None = None) -> None:
        self.causes: list[Cause] = []
        self._dies_after = dies_after

    def __call__(self, cause: Cause) -> Mapping[str, Any]:
        """Take one."""
        if len(self.causes) == self._dies_after:
            raise KeyboardInterrupt
        self.causes.append(cause)
        return {"request_id": "r", "outcome": "requested", "why": ""}

    @property
    def windows(self) -> list[tuple[str, int]]:
        """Cause and window of each."""
        return [(cause.cause, cause.window_start_ms) for cause in self.causes]
