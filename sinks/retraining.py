"""Requests for retrainings: who may have one and when, what became of it, and who is told.

Each step is a row of the lake's table `retraining`; the newest row of a request is how it stands. A request is a row
first and then deliveries in the outbox, all with ids that follow from the request's: whoever dies in between leaves a
row whose deliveries are put by the next that opens this, asks for the same, or claims it.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from config.settings import Settings
from config.words import moment
from sinks.delivering import outbox_of
from sinks.errors import RetrainingNotDueError, RetrainingRunningError, RetrainingUnknownError
from sinks.lake_root import Lake, lake_of
from sinks.noting import note, noted
from sinks.outbox import Outbox
from sinks.quality_tables import RETRAINING
from sinks.retraining_locks import RetrainingLocks
from sinks.retraining_requests import (
    FORCED,
    RetrainingRequest,
    Step,
    deliveries,
    request_id_of,
    requests_of,
)

__all__ = ["Retraining", "RetrainingRequest", "Step"]

logger = logging.getLogger(__name__)

IN_FLIGHT: Final = frozenset({Step.REQUESTED, Step.STARTED, Step.VALIDATED, Step.CANARY})
_CLAIMABLE: Final = frozenset({Step.REQUESTED, Step.STARTED, Step.FAILED})


class Retraining:
    """Requests, one decision at a time over all processes of one home. Blocking.

    Args:
        home: has the locks.
        lake: has the table.
        outbox: where each request is put once for each kind that it has a sender for; its owner flushes it.
        cooldown_ms: event time between the windows of two requests for the same cause.
        give_up_ms: wall time after which a step that nothing follows counts as failed.
        clock_ms: wall clock.

    Raises (every method):
        LakeUnavailableError: the table cannot be read or written; asking again is safe.
        OutboxError: deliveries could not be put; they are, by whoever opens this next.
    """

    def __init__(
        self,
        home: Path,
        lake: Lake,
        outbox: Outbox,
        *,
        cooldown_ms: int,
        give_up_ms: int,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._locks = RetrainingLocks(home)
        self._lake = lake
        self._outbox = outbox
        self._cooldown_ms = cooldown_ms
        self._give_up_ms = give_up_ms
        self._clock_ms = clock_ms

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Open the requests of a deployment, and put what somebody who died has left to be delivered."""
        found = cls(
            settings.home,
            lake_of(settings),
            outbox_of(settings),
            cooldown_ms=settings.drift.cooldown_ms,
            give_up_ms=settings.drift.give_up_ms,
        )
        found.deliver()
        return found

    def request(
        self,
        *,
        cause: str,
        window_start_ms: int,
        window_end_ms: int,
        detail: str,
        evidence: Mapping[str, Any],
        red: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Ask for a retraining, once per cause and window.

        Args:
            cause: `drift` or `online_quality`.
            detail: in words why.
            evidence: JSON; `lake_versions` in it are the versions that were looked at.
            red: gates that are red, in words; with any, nothing is requested.

        Returns:
            `request_id`, `outcome` (`requested`, `suppressed`, or `known` if it was asked for before) and `why`.
        """
        asked = RetrainingRequest(
            request_id_of(cause, window_start_ms, window_end_ms), Step.REQUESTED, cause, window_start_ms,
            window_end_ms, detail, dict(evidence), 0, None,
        )  # fmt: skip
        return self._decide(asked, red, self._why_not_again)

    def force(
        self, *, reason: str, evidence: Mapping[str, Any] | None = None, now_ms: int | None = None,
        red: Sequence[str] = (),
    ) -> dict[str, Any]:  # fmt: skip
        """Ask for a retraining whatever the data is like: neither cooldown nor silence count.

        Args:
            reason: in words, who asks and why.
            now_ms: names the request: asked again with the same, it is known.
            red: gates that are red, in words; with any, nothing is requested.

        Returns:
            As `request` does.
        """
        at_ms = self._clock_ms() if now_ms is None else now_ms
        name = request_id_of(FORCED, at_ms, at_ms)
        asked = RetrainingRequest(name, Step.REQUESTED, FORCED, None, None, reason, dict(evidence or {}), 0, None)
        return self._decide(asked, red, lambda _asked, _rows: "")

    def note(self, request_id: str, step: str, detail: str, evidence: Mapping[str, Any], /) -> None:
        """Note what became of a request.

        Raises:
            RetrainingUnknownError: there is no such request.
        """
        with self._locks.deciding():
            self._note(self._known(request_id, self._rows()), Step(step), detail, evidence)

    def newest(self) -> list[RetrainingRequest]:
        """Return the newest step of each request, the oldest request first."""
        return requests_of(self._rows())

    def in_flight(self) -> RetrainingRequest | None:
        """Return the request that is under way, if there is one."""
        with self._locks.deciding():  # who asks whether a claim is held must not look like one
            under_way = [request for request in self.newest() if self._is_under_way(request)]
        return under_way[-1] if under_way else None

    def silence(self, until_ms: int, reason: str) -> None:
        """Suppress requests until a moment of wall time; one that has passed ends a silence."""
        with self._locks.deciding():
            newest_ms = max((row["noted_ms"] for row in self._rows() if row["step"] == Step.SILENCED), default=0)
            row = {"request_id": "", "step": Step.SILENCED.value, "cause": "", "detail": reason}
            noted_ms = max(self._clock_ms(), newest_ms + 1)
            self._write({**row, "evidence": json.dumps({"until_ms": until_ms}), "noted_ms": noted_ms})

    def silenced_until_ms(self) -> int | None:
        """Return until when requests are suppressed, wall time; None if they are not."""
        return self._silenced_until_ms(self._rows())

    @contextmanager
    def claim(self, request_id: str) -> Iterator[RetrainingRequest]:
        """Hold a request for whoever runs it, and note that it is started; a claim ends with its process.

        What came of it is for the block to note. One that was started before, by somebody who died, or that was given
        up, can be claimed again.

        Raises:
            RetrainingUnknownError: there is no such request.
            RetrainingRunningError: somebody else holds it.
            RetrainingNotDueError: it was suppressed or has been run, or another one is under way instead of it.
        """
        with ExitStack() as held:
            with self._locks.deciding():
                rows = self._rows()
                found = self._known(request_id, rows)
                if not held.enter_context(self._locks.claimed(request_id)):
                    raise RetrainingRunningError(
                        f"The retraining {request_id} is being run by another process.",
                        hint="Wait until it has ended; nothing was changed.",
                    )
                self._check_due(found, rows)
                if found.step is Step.REQUESTED:
                    self._put(found)
                started = self._note(found, Step.STARTED)
            yield started

    def deliver(self) -> int:
        """Put what is missing in the outbox of the requests that nobody has started yet; return how many."""
        waiting = [request for request in self.newest() if request.step is Step.REQUESTED]
        return sum(self._put(request) for request in waiting)

    def _decide(
        self, asked: RetrainingRequest, red: Sequence[str],
        why_not: Callable[[RetrainingRequest, list[dict[str, Any]]], str],
    ) -> dict[str, Any]:  # fmt: skip
        with self._locks.deciding():
            rows = self._rows()
            known = next((one for one in requests_of(rows) if one.request_id == asked.request_id), None)
            if known is not None:
                if known.step is Step.REQUESTED:
                    self._put(known)
                return _answer(known, "known", f"it is {known.step.value} already: {known.detail}")
            why = self._why_not(rows, red) or why_not(asked, rows)
            if why:
                suppressed = self._note(asked, Step.SUPPRESSED, f"{asked.detail}; not requested, since {why}")
                return _answer(suppressed, "suppressed", why)
            requested = self._note(asked, Step.REQUESTED)
            self._put(requested)
            logger.info("retraining %s is requested: %s", requested.request_id, requested.detail)
            return _answer(requested, "requested", requested.detail)

    def _why_not(self, rows: list[dict[str, Any]], red: Sequence[str]) -> str:
        if red:
            return "; ".join(red)
        for request in requests_of(rows):
            if request.step not in IN_FLIGHT:
                continue
            if self._is_under_way(request):
                return f"{request.request_id} is under way ({request.step.value} since {moment(request.noted_ms)})"
            given_up = f"given up: nothing followed {request.step.value} of {moment(request.noted_ms)}"
            self._note(request, Step.FAILED, given_up)
            logger.warning("retraining %s is %s", request.request_id, given_up)
        return ""

    def _why_not_again(self, asked: RetrainingRequest, rows: list[dict[str, Any]]) -> str:
        until_ms = self._silenced_until_ms(rows)
        if until_ms is not None:
            return f"requests are silenced until {moment(until_ms)}"
        ends = [
            row["window_end_ms"]
            for row in rows
            if row["step"] == Step.REQUESTED and row["cause"] == asked.cause and row["window_end_ms"] is not None
        ]
        # a window that is older than the last one that gave cause says nothing about what came after
        if ends and asked.window_end_ms is not None and asked.window_end_ms - max(ends) < self._cooldown_ms:
            return f"the window of the last request for {asked.cause} ended {moment(max(ends))}, within the cooldown"
        return ""

    def _is_under_way(self, request: RetrainingRequest) -> bool:
        if request.step not in IN_FLIGHT:
            return False
        # the clock that noted it may have been another one, before or after ours
        is_young = abs(self._clock_ms() - request.noted_ms) < self._give_up_ms
        return is_young or self._locks.is_claimed(request.request_id)

    def _check_due(self, found: RetrainingRequest, rows: list[dict[str, Any]]) -> None:
        if found.step not in _CLAIMABLE:
            raise RetrainingNotDueError(
                f"The retraining {found.request_id} is not to be run: it is {found.step.value} ({found.detail}).",
                hint="Ask for another one: `shopstream drift trigger --force --reason ...`.",
            )
        for other in requests_of(rows):
            if other.request_id != found.request_id and found.step is Step.FAILED and self._is_under_way(other):
                raise RetrainingNotDueError(
                    f"The retraining {found.request_id} was given up, and {other.request_id} is {other.step.value}.",
                    hint="Wait until that one has ended.",
                )

    def _silenced_until_ms(self, rows: list[dict[str, Any]]) -> int | None:
        ends = [int(json.loads(row["evidence"])["until_ms"]) for row in rows if row["step"] == Step.SILENCED]
        return ends[-1] if ends and ends[-1] > self._clock_ms() else None

    def _put(self, request: RetrainingRequest) -> int:
        """Put the deliveries of a request that are not known; one that is too old to be run is not delivered."""
        if request.requested_ms is None or abs(self._clock_ms() - request.requested_ms) >= self._give_up_ms:
            return 0
        return sum(self._outbox.put(delivery) for delivery in deliveries(request, self._outbox.kinds))

    def _known(self, request_id: str, rows: list[dict[str, Any]]) -> RetrainingRequest:
        found = next((request for request in requests_of(rows) if request.request_id == request_id), None)
        if found is None:
            raise RetrainingUnknownError(
                f"There is no request {request_id!r} for a retraining.",
                hint="`shopstream drift status` lists the requests.",
            )
        return found

    def _rows(self) -> list[dict[str, Any]]:
        return noted(self._lake, RETRAINING)

    def _note(
        self, request: RetrainingRequest, step: Step, detail: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> RetrainingRequest:  # fmt: skip
        # the newest step is told by its time, and clocks may be set back
        taken = request.taking(step, max(self._clock_ms(), request.noted_ms + 1), detail, evidence)
        self._write(taken.row())
        return taken

    def _write(self, row: Mapping[str, Any]) -> None:
        note(self._lake, RETRAINING, [row])


def _answer(request: RetrainingRequest, outcome: str, why: str) -> dict[str, Any]:
    return {"request_id": request.request_id, "outcome": outcome, "why": why}
