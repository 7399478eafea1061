"""A request for a retraining: its id, its rows in the lake, and its deliveries to whoever trains."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from sinks.outbox import Delivery
from sinks.webhooks import webhook_payload

DRIFT: Final = "drift"
ONLINE_QUALITY: Final = "online_quality"
FORCED: Final = "forced"


class Step(StrEnum):
    """What can happen to a request; `silenced` is about requests to come."""

    REQUESTED = "requested"
    SUPPRESSED = "suppressed"
    STARTED = "started"
    VALIDATED = "validated"
    CANARY = "canary"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    SILENCED = "silenced"


@dataclass(frozen=True, slots=True)
class RetrainingRequest:
    """One request, as its newest step left it.

    Attributes:
        cause: `drift`, `online_quality` or `forced`.
        window_start_ms: first event time of the window that gave cause; None where there was none.
        window_end_ms: end of its event times, not included.
        detail: of the newest step, in words.
        evidence: of the newest step; JSON.
        noted_ms: when that was taken, by the wall clock, integer milliseconds UTC.
        requested_ms: when it was requested; None if it was suppressed.
    """

    request_id: str
    step: Step
    cause: str
    window_start_ms: int | None
    window_end_ms: int | None
    detail: str
    evidence: Mapping[str, Any]
    noted_ms: int
    requested_ms: int | None

    def taking(
        self, step: Step, noted_ms: int, detail: str | None = None, evidence: Mapping[str, Any] | None = None
    ) -> "RetrainingRequest":
        """Return it after a further step."""
        return replace(
            self,
            step=step,
            detail=self.detail if detail is None else detail,
            evidence=self.evidence if evidence is None else dict(evidence),
            noted_ms=noted_ms,
            requested_ms=noted_ms if step is Step.REQUESTED else self.requested_ms,
        )

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "request_id": self.request_id,
            "step": self.step.value,
            "cause": self.cause,
            "window_start_ms": self.window_start_ms,
            "window_end_ms": self.window_end_ms,
            "detail": self.detail,
            "evidence": dict(self.evidence),
            "noted_ms": self.noted_ms,
            "requested_ms": self.requested_ms,
        }

    def row(self) -> dict[str, Any]:
        """Return it as a row of the lake's table `retraining`."""
        document = self.document()
        del document["requested_ms"]
        return {**document, "evidence": json.dumps(document["evidence"], sort_keys=True, allow_nan=False)}


def request_id_of(cause: str, start_ms: int, end_ms: int) -> str:
    """Return the id of a request: the same for the same cause and window, and fit to name a file and a DAG run."""
    digest = hashlib.blake2b(f"{cause}|{start_ms}|{end_ms}".encode(), digest_size=4).hexdigest()
    return f"retrain-{cause}-{start_ms}-{digest}"


def requests_of(rows: Sequence[Mapping[str, Any]]) -> list[RetrainingRequest]:
    """Return the newest step of each request, the oldest request first.

    Args:
        rows: of the table `retraining`, oldest first.
    """
    found: dict[str, RetrainingRequest] = {}
    for row in rows:
        if row["step"] == Step.SILENCED:
            continue
        before = found.get(row["request_id"])
        step = Step(row["step"])
        requested_ms = None if before is None else before.requested_ms
        found[row["request_id"]] = RetrainingRequest(
            row["request_id"],
            step,
            row["cause"],
            row["window_start_ms"],
            row["window_end_ms"],
            row["detail"],
            json.loads(row["evidence"]),
            row["noted_ms"],
            row["noted_ms"] if step is Step.REQUESTED else requested_ms,
        )
    return list(found.values())


def deliveries(request: RetrainingRequest, kinds: Sequence[str]) -> list[Delivery]:
    """Return what is delivered of a request that is in step `requested`, one delivery for each kind."""
    requested_ms = request.noted_ms if request.requested_ms is None else request.requested_ms
    evidence = dict(request.evidence)
    versions = evidence.pop("lake_versions", {})
    event = {
        "request_id": request.request_id,
        "cause": request.cause,
        "window_start_ms": request.window_start_ms,
        "window_end_ms": request.window_end_ms,
        "detail": request.detail,
        "evidence": evidence,
        "lake_versions": versions,
        "requested_ms": requested_ms,
    }
    payloads = {"webhook": webhook_payload("retraining.requested", requested_ms, event)}
    return [Delivery(request.request_id, kind, payloads.get(kind, event), requested_ms) for kind in kinds]
