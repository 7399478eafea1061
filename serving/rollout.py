"""Brings a model to serve everybody, step by step, and back when it does harm: staged, canary, promoted or rolled back.

Every step begins with what another process may have left half done (serving/moves.py), and is taken under one lock, so
that two guards beside each other decide once.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from config.quality import RolloutSettings
from config.settings import Settings
from serving.baseline import move_baseline
from serving.canary_judge import Fate, Judgement, judge
from serving.click_through import Period, records
from serving.errors import ModelRefusedError, RebasingError, RolloutBusyError, RolloutError
from serving.model_overview import unknown
from serving.models_in_service import CHALLENGER, CHAMPION, FORMER, loaded
from serving.moves import Moves
from serving.reader import now_ms as wall_clock_ms
from serving.rollout_lock import locked
from serving.rollout_ports import Baseline, Registry, Requests, Trained
from sinks.erasures import Tombstones
from sinks.lake_root import Lake, lake_of
from sinks.sessions import EventReader
from training.artefacts import ArtefactError
from training.errors import DefinitionError
from training.model_log import ModelLog, ModelStep, Step, newest_canary, newest_change

logger = logging.getLogger(__name__)

GUARD: Final = "guard"
LOCK_FILE: Final = "rollout.lock"
PATIENCE_S: Final = 20.0  # of whoever asks for a move; a guard is busy for seconds at most
REBASING_LOCK_FILE: Final = "rebasing.lock"
_FINAL: Final = {Step.REJECTED, Step.ROLLED_BACK, Step.PROMOTED}


class Rollout:
    """Moves models. Blocking; each move may be repeated, also after a kill in its middle.

    Args:
        lake: has the log of steps, the answers and the clicks.
        home: has the lock.
        clock_ms: wall clock.
        patience_s: how long whoever asks for a move waits for another process that is at it.
    """

    def __init__(
        self,
        lake: Lake,
        registry: Registry,
        requests: Requests,
        baseline: Baseline,
        rollout: RolloutSettings,
        home: Path,
        clock_ms: Callable[[], int] = wall_clock_ms,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._patience_s = patience_s
        self._lake = lake
        self._log = ModelLog(lake)
        self._registry = registry
        self._rollout = rollout
        self._moves = Moves(lake, registry, requests, baseline, canary_share=rollout.canary_share, clock_ms=clock_ms)
        self._home = home
        self._clock_ms = clock_ms

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Open it on the lake and the registry of models of the settings."""
        from sinks.retraining import Retraining
        from training.models import Models

        def baseline(model: Trained, promoted_ms: int, newest_ms: int | None) -> Mapping[str, Any]:
            return move_baseline(settings, model, promoted_ms, newest_ms)

        return cls(
            lake_of(settings),
            Models.from_settings(settings),
            Retraining.from_settings(settings),
            baseline,
            settings.rollout,
            settings.home,
        )

    def guard(self, now_ms: int | None = None) -> list[ModelStep]:
        """Take each step that is due: a validated challenger to canary, a canary to champion, or back.

        Args:
            now_ms: event time up to which clicks are known, integer milliseconds UTC; that of the newest event in the
                lake, if None.

        Returns:
            The steps that were taken; none while another process is at it.

        Raises:
            ShopstreamError: the lake or the registry cannot be used; the next call goes on where this one stopped.
        """
        try:
            with self._alone(0.0):
                steps = self._guarded(now_ms)
        except RolloutBusyError:
            return []
        self._rebase(is_told=not steps)
        return steps

    def stage(self, version: str, by: str, reason: str) -> ModelStep:
        """Check that a version's files are what was registered and that it answers, and note that it is staged.

        Raises:
            RolloutError: there is no such version, or it has been decided upon before.
            ModelRefusedError, ArtefactError, DefinitionError: it cannot serve; nothing was changed.
        """
        with self._alone(self._patience_s):
            self._refuse_decided(version)
            return self._moves.stage(self._version(version), by, reason)

    def start_canary(self, version: str, by: str, reason: str) -> ModelStep:
        """Give a staged version to a share of the users.

        Raises:
            RolloutError: it is not staged, there is no champion to compare it with, or another canary is out.
        """
        with self._alone(self._patience_s):
            newest = self._log.newest()
            step = newest.get(version)
            if step is None or step.step is not Step.STAGED:
                raise RolloutError(f"Model {version} is not staged: it is {_words(step)}.", hint="Stage it first.")
            if self._registry.alias(CHAMPION) is None:
                raise RolloutError(
                    f"Model {version} cannot be a canary: there is no champion to compare it with.",
                    hint=f"Put it in charge: `shopstream models promote {version} --reason ...`.",
                )
            others = [other for other, theirs in newest.items() if theirs.step is Step.CANARY]
            if others:
                raise RolloutError(f"Model {others[0]} is the canary already.", hint="Wait, or roll it back first.")
            return self._moves.start_canary(self._version(version), by, reason)

    def promote(self, version: str, by: str, reason: str, *, is_forced: bool = False) -> ModelStep:
        """Have a version answer to everybody.

        Args:
            is_forced: also one that was rejected or rolled back.

        Raises:
            RolloutError: it is the champion already, there is no such version, or it was decided against.
            ModelRefusedError, ArtefactError, DefinitionError: it cannot serve; nothing was changed.
        """
        with self._alone(self._patience_s):
            found, champion = self._version(version), self._registry.alias(CHAMPION)
            if champion is not None and champion.version == version:
                raise RolloutError(f"Model {version} is the champion already.")
            step = self._log.newest().get(version)
            if step is not None and step.step in {Step.REJECTED, Step.ROLLED_BACK} and not is_forced:
                raise RolloutError(
                    f"Model {version} is {_words(step)}: {step.reason}.",
                    hint="Read `shopstream models show`; to promote it nevertheless, add --force.",
                )
            loaded(self._registry.load, version)
            taken = self._moves.promote(found, by, reason, {"is_forced": is_forced})
        self._rebase(is_told=False)
        return taken

    def roll_back(self, by: str, reason: str) -> ModelStep:
        """Take the canary back; if there is none, the champion, for the former one.

        Raises:
            RolloutError: there is neither a canary nor a former champion.
            ModelRefusedError, ArtefactError, DefinitionError: the former champion cannot serve; nothing was changed.
        """
        with self._alone(self._patience_s):
            canary = newest_canary(self._log.steps())
            if canary is not None:
                return self._moves.roll_back(self._version(canary.model), by, reason, {})
            champion, former = self._registry.alias(CHAMPION), self._registry.alias(FORMER)
            if champion is None or former is None:
                raise RolloutError(
                    "There is neither a canary nor a former champion to go back to.",
                    hint="Put a version in charge: `shopstream models promote VERSION --reason ...`.",
                )
            loaded(self._registry.load, former.version)
            return self._moves.roll_back(champion, by, reason, {"to": former.version})

    def standing(self, now_ms: int | None = None) -> tuple[ModelStep, Judgement] | None:
        """Return since when there is a canary, and what the guard would say of it now; None without one.

        Raises:
            LakeUnavailableError: the lake cannot be read.
        """
        step, champion = newest_canary(self._log.steps()), self._registry.alias(CHAMPION)
        if step is None or champion is None:
            return None
        return step, self._judged(step, champion, now_ms)[0]

    # -- the guard -------------------------------------------------------------------------------------------------

    def _guarded(self, now_ms: int | None) -> list[ModelStep]:
        canary = newest_canary(self._log.steps())
        if canary is None:
            return self._bring_in()
        found, champion = self._found(canary.model), self._registry.alias(CHAMPION)
        if found is None:
            return [self._moves.give_up(canary, GUARD, "the registry does not hold it any more")]
        if champion is None:
            return [self._moves.promote(found, GUARD, "there is no champion any more", {})]
        judgement, newest_ms = self._judged(canary, champion, now_ms)
        if judgement.fate is Fate.PROMOTE:
            evidence = {**judgement.evidence, "newest_ms": newest_ms}
            return [self._moves.promote(found, GUARD, judgement.reason, evidence)]
        if judgement.fate is Fate.ROLL_BACK:
            return [self._moves.roll_back(found, GUARD, judgement.reason, judgement.evidence)]
        return []

    def _bring_in(self) -> list[ModelStep]:
        """Begin with the challenger, if there is one."""
        challenger, champion = self._registry.alias(CHALLENGER), self._registry.alias(CHAMPION)
        if challenger is None:
            return []
        newest = self._log.newest().get(challenger.version)
        if newest is not None and newest.step in _FINAL:  # it has been decided upon
            self._registry.remove_alias(CHALLENGER)
            return []
        steps = []
        try:
            if newest is None or newest.step is not Step.STAGED:
                steps.append(self._moves.stage(challenger, GUARD, "it was validated"))
        except (ModelRefusedError, ArtefactError, DefinitionError) as error:
            return [self._moves.roll_back(challenger, GUARD, str(error), {})]
        if champion is None:
            return [*steps, self._moves.promote(challenger, GUARD, "it was validated, and there is no champion", {})]
        reason = f"{self._rollout.canary_share:.0%} of the users, beside the champion {champion.version}"
        return [*steps, self._moves.start_canary(challenger, GUARD, reason)]

    def _judged(self, step: ModelStep, champion: Trained, now_ms: int | None) -> tuple[Judgement, int | None]:
        """Return what becomes of a canary, and the newest event time that it has seen."""
        change = newest_change(self._log.steps())
        until_ms = self._newest_event_ms() if now_ms is None else now_ms
        period = Period(
            since_ms=max(step.noted_ms, change.noted_ms if change else 0),  # both must have served all the time
            until_ms=until_ms,
            attribution_ms=self._rollout.attribution_ms,
            slow_s=self._rollout.latency_p99_max_ms / 1000,
        )
        of_champion, of_canary = records(self._lake, champion.version, step.model, period)
        newest_ms = None if of_canary.newest_ms is None else min(of_canary.newest_ms, until_ms)
        return judge(of_canary, of_champion, self._rollout), newest_ms

    def _newest_event_ms(self) -> int:
        """Return up to which event time clicks are known: nothing newer is in the lake."""
        bounds, clock_ms = EventReader(self._lake, Tombstones()).bounds(), self._clock_ms()
        return clock_ms if bounds is None else min(clock_ms, bounds.newest_event_ms)

    def _found(self, version: str) -> Trained | None:
        return next((found for found in self._registry.versions() if found.version == version), None)

    def _version(self, version: str) -> Trained:
        found = self._found(version)
        if found is None:
            raise unknown(version, self._registry.versions())
        return found

    def _refuse_decided(self, version: str) -> None:
        step = self._log.newest().get(version)
        if step is not None and step.step in {*_FINAL, Step.CANARY}:
            raise RolloutError(f"Model {version} cannot be staged: it is {_words(step)}.")

    def _rebase(self, *, is_told: bool) -> None:
        """Move the reference of drift, if it is to move, unless somebody else is at it; nothing else waits for it.

        Args:
            is_told: whether an error is raised; else there are steps to be told, and the next guard tries again.
        """
        try:
            with locked(self._home / REBASING_LOCK_FILE):
                self._moves.rebase()
        except RolloutBusyError:
            return
        except RebasingError as error:
            if is_told:
                raise
            logger.warning("%s", error)

    @contextmanager
    def _alone(self, wait_s: float) -> Iterator[None]:
        """Keep others from moving models for the time of the block, and finish what one of them has left half done.

        Raises:
            RolloutBusyError: somebody else is at it, for longer than we wait.
        """
        with locked(self._home / LOCK_FILE, wait_s=wait_s):
            self._moves.settle()
            yield


def guard(settings: Settings, now_ms: int | None = None) -> list[ModelStep]:
    """Take each step of a model that is due: see `Rollout.guard`.

    Raises:
        ShopstreamError: the lake or the registry cannot be used.
    """
    return Rollout.from_settings(settings).guard(now_ms)


def _words(step: ModelStep | None) -> str:
    return "not known yet" if step is None else step.step.value.replace("_", " ")
