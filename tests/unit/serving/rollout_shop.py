"""A shop whose models are moved: real tables in a folder, a registry in memory, and a kill at any point between."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from config.quality import RolloutSettings
from serving.moves import Moves
from serving.rollout import Rollout
from serving.rollout_ports import Trained
from sinks.errors import LakeUnavailableError
from sinks.noting import note, noted
from sinks.quality_tables import RETRAINING
from tests.fakes.models import FakeModels
from tests.recorded_lakes import RecordedLake
from tests.unit.serving.answers import NOON_MS
from training.model_log import ModelLog, ModelStep


class Killed(BaseException):
    """A kill; no handler of errors catches it."""


class Kill:
    """Kills at the n-th point that is reached, once."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.point = ""

    def __call__(self, point: str) -> None:
        self.left -= 1
        if not self.left:
            self.point = point
            raise Killed(point)


class Shops:
    """Opens shops one after the other.

    Attributes:
        reached: told before and after each effect of the one that is in use.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached: Callable[[str], None] = lambda _point: None
        self._root = root
        self._count = 0
        append = ModelLog.append

        def watched(log: ModelLog, step: ModelStep) -> None:
            self.reach(f"before {step.step.value} is noted")
            append(log, step)
            self.reach(f"after {step.step.value} is noted")

        monkeypatch.setattr(ModelLog, "append", watched)

    def reach(self, point: str) -> None:
        self.reached(point)

    def open(self) -> "Shop":
        """Open one with models 1, 2 and 3, all of them validated."""
        self._count += 1
        shop = Shop(self._root / str(self._count), self)
        rows = [shop.row(f"req-{version}", "validated", NOON_MS) for version in ("1", "2", "3")]
        note(shop.lake, RETRAINING, rows)
        return shop

    def copy(self, shop: "Shop") -> "Shop":
        """Open one that is as another one is now."""
        self._count += 1
        found = Shop(self._root / str(self._count), self)
        shutil.copytree(shop.lake, found.lake)
        found.registry.aliases = dict(shop.registry.aliases)
        found.baselines, found.now_ms = list(shop.baselines), shop.now_ms
        return found

    def each_kill(self, prepared: "Shop", run: Callable[["Shop"], object]) -> Iterator[tuple["Shop", str]]:
        """Run in a copy for each point, killed there; ends with the run that reaches its end."""
        for at in range(1, 100):
            shop, kill = self.copy(prepared), Kill(at)
            self.reached = kill
            try:
                run(shop)
            except Killed:
                self.reached = lambda _point: None
                yield shop, kill.point
            else:
                self.reached = lambda _point: None
                return


class Shop:
    """Models, and what is noted of them; the request `req-N` led to model N.

    Attributes:
        events: those of the shop, on their way to its lake.
        has_no_baseline: whether moving the reference of drift fails.
        baselines: versions for which the reference of drift was moved, in order.
    """

    def __init__(self, root: Path, shops: Shops) -> None:
        self.lake, self.home = root / "lake", root / "home"
        self.now_ms = NOON_MS
        self.rollout_settings = RolloutSettings(min_impressions=100)
        self.shops = shops
        self.registry = FakeModels(reached=shops.reach)
        self.baselines: list[str] = []
        self.has_no_baseline = False
        self.log = ModelLog(self.lake)
        self.events = RecordedLake(self.lake)
        for version in ("1", "2", "3"):
            self.registry.add(version, request_id=f"req-{version}", from_ms=NOON_MS - 100, to_ms=NOON_MS)

    def row(self, request_id: str, step: str, noted_ms: int) -> dict[str, Any]:
        facts = {"cause": "drift", "detail": "", "evidence": "{}"}
        return {"request_id": request_id, "step": step, "noted_ms": noted_ms, **facts}

    def note(self, request_id: str, step: str, _detail: str, _evidence: Mapping[str, Any], /) -> None:
        self.shops.reach(f"before the request is {step}")
        count = len(noted(self.lake, RETRAINING, ["request_id"]))
        note(self.lake, RETRAINING, [self.row(request_id, step, NOON_MS + count)])
        self.shops.reach(f"after the request is {step}")

    def baseline(self, model: Trained, _promoted_ms: int, _newest_ms: int | None, /) -> dict[str, Any]:
        self.shops.reach("before the baseline is moved")
        if self.has_no_baseline:
            raise LakeUnavailableError(self.lake, "it is away", hint="Wait.")
        self.baselines.append(model.version)
        self.shops.reach("after the baseline is moved")
        return {"reference_id": f"ref-{model.version}"}

    def clock_ms(self) -> int:
        self.now_ms += 1_000
        return self.now_ms

    def moves(self) -> Moves:
        return Moves(self.lake, self.registry, self, self.baseline, canary_share=0.1, clock_ms=self.clock_ms)

    def rollout(self) -> Rollout:
        return Rollout(
            self.lake,
            self.registry,
            self,
            self.baseline,
            self.rollout_settings,
            self.home,
            self.clock_ms,
            patience_s=0.0,
        )

    def steps(self) -> list[tuple[str, str]]:
        return [(step.model, step.step.value) for step in self.log.steps()]

    def request_steps(self, version: str) -> list[str]:
        rows = noted(self.lake, RETRAINING, ["request_id", "step"])
        return [row["step"] for row in rows if row["request_id"] == f"req-{version}"]

    def state(self) -> dict[str, Any]:
        """Return all that a move may change; that the reference was moved for a model twice is the same as once."""
        requests = {version: self.request_steps(version) for version in self.registry.held}
        return {
            "aliases": dict(self.registry.aliases),
            "steps": self.steps(),
            "requests": requests,
            "baselines": list(dict.fromkeys(self.baselines)),
        }
