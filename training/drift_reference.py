"""The reference of drift: taken from a stretch of history, kept in the lake; the newest one is in force."""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import Any, Final, NamedTuple

import msgspec

from config.settings import Settings
from config.words import moment, span
from quality.calibration import WINDOWS_MIN, Calibration, calibrate
from quality.profile import Profile, merged
from quality.reference import Reference, Window
from sinks.lake_root import Lake, lake_of
from sinks.leases import reading
from sinks.noting import note, noted
from sinks.quality_tables import DRIFT_REFERENCES, GATE_LOG
from training.errors import DriftBusyError, HistoryError
from training.sets import SetMode
from training.window_profiles import SeenWindow, WindowReader, feature_spans_ms

LOCK_FILE: Final = "drift.lock"


class HaltedSpan(NamedTuple):
    """A time in which a gate had halted a view.

    Attributes:
        until_ms: when it was resumed; None if it was not.
        happened_ms: event time that the gate had reached when it halted; None if it is not known.
    """

    topic: str
    gate: str
    since_ms: int
    until_ms: int | None
    happened_ms: int | None = None

    def unfit(self, seen: SeenWindow, gate_window_ms: int) -> str:
        """Say why a window must not be judged: its events came while the view was halted, or led to it; else nothing.

        Args:
            gate_window_ms: what the gate objected to lies within so much event time before it halted.
        """
        ended = self.until_ms is not None and self.until_ms < seen.first_append_ms
        came_then = not ended and self.since_ms <= seen.last_append_ms
        led_to_it = (
            self.happened_ms is not None
            and seen.window.start_ms <= self.happened_ms < seen.window.end_ms + gate_window_ms
        )
        return f"{self.topic} was halted by its gate {self.gate}" if came_then or led_to_it else ""


@dataclass(frozen=True, slots=True)
class DriftReference:
    """What windows are compared with, and the thresholds.

    Attributes:
        model: that it was taken for; None before the first.
        from_ms: first event time.
        to_ms: end of its event times, not included.
        profile: of all its windows together.
        created_ms: when it came in force.
    """

    reference_id: str
    model: str | None
    from_ms: int
    to_ms: int
    window_ms: int
    mode: SetMode
    reference: Reference
    profile: Profile
    calibration: Calibration
    created_ms: int

    def summary(self) -> dict[str, Any]:
        """Return what it is, without profiles, as JSON has it."""
        calibration = self.calibration.document()
        return {
            "reference_id": self.reference_id,
            "model": self.model,
            "from_ms": self.from_ms,
            "to_ms": self.to_ms,
            "window_ms": self.window_ms,
            "mode": self.mode.value,
            "created_ms": self.created_ms,
            "compared_by": self.reference.level.value,
            "rows": self.profile.rows,
            "variables": len(self.reference.bins),
            "judged_variables": len(calibration.pop("noise")),
            **calibration,
        }


def take_reference(
    settings: Settings,
    from_ms: int,
    to_ms: int,
    model: str | None,
    tell: Callable[[str], None] = lambda _line: None,
) -> str:
    """Profile a stretch of event time by windows, calibrate on it, and put it in force; return its id. Blocking.

    Windows with too few events, and those that came while a view was halted, are left out.

    Args:
        from_ms: first event time; rounded up to a window.
        to_ms: end of event times, not included; rounded down.
        model: version of the model that it is taken for.
        tell: told what is under way, in words.

    Raises:
        HistoryError: there are too few windows to calibrate on; nothing was changed.
        ShopstreamError: the lake or the feature store cannot be read.
    """
    drift, lake, mode = settings.drift, lake_of(settings), SetMode(settings.training.mode)
    window_ms = drift.window_ms
    first_ms, end_ms = -(-from_ms // window_ms) * window_ms, to_ms // window_ms * window_ms
    with reading(lake, "drift calibrate"):
        reader = WindowReader(settings, lake, mode, window_ms)
        reader.leave_out_until_mature(first_ms)
        spans = halted_spans(lake)
        seen = list(reader.windows(first_ms, end_ms, tell)) if first_ms < end_ms else []
    windows = [
        each.window
        for each in seen
        if each.window.profile.rows >= drift.min_rows
        and not any(halt.unfit(each, settings.gates.window_ms) for halt in spans)
    ]
    if len(windows) < WINDOWS_MIN:
        raise HistoryError(
            f"From {moment(from_ms)} to {moment(to_ms)} the lake holds {len(windows)} windows of {span(window_ms)} "
            f"with at least {drift.min_rows} events of the kind {drift.label_kind} in which no view was halted; a "
            f"calibration needs {WINDOWS_MIN}.",
            hint="Take a longer range, or set drift.window_ms.",
        )
    tell(f"Calibrating on {len(windows)} windows")
    reference, calibration = _calibrated(settings, windows)
    profile = merged(window.profile for window in windows)
    evidence = {**calibration.document(), "lake_versions": reader.versions}
    row = {
        "model": model,
        "from_ms": first_ms,
        "to_ms": end_ms,
        "window_ms": window_ms,
        "mode": mode.value,
        "profiles": msgspec.msgpack.encode((reference.to_bytes(), profile.to_bytes())),
        "calibration": json.dumps(evidence, sort_keys=True),
    }
    created_ms = time.time_ns() // 1_000_000
    facts = json.dumps([created_ms, *(row[name] for name in ("model", "from_ms", "to_ms", "calibration"))])
    reference_id = f"ref-{hashlib.blake2b(facts.encode(), digest_size=6).hexdigest()}"
    note(lake, DRIFT_REFERENCES, [{**row, "reference_id": reference_id, "created_ms": created_ms}])
    return reference_id


def _calibrated(settings: Settings, windows: Sequence[Window]) -> tuple[Reference, Calibration]:
    reference = Reference.of(windows)
    drift = settings.drift
    return reference, calibrate(
        reference, windows, budget=drift.alarm_budget, floor=drift.effect_floor, spans_ms=feature_spans_ms()
    )


def reference_in_force(lake: Lake) -> DriftReference | None:
    """Return the newest reference; None if there is none.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    rows = noted(lake, DRIFT_REFERENCES)
    return _reference(rows[-1]) if rows else None


def references(lake: Lake, ids: Collection[str]) -> list[DriftReference]:
    """Return the references of some ids, oldest first; one that is not there is left out.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    return [_reference(row) for row in noted(lake, DRIFT_REFERENCES) if row["reference_id"] in ids]


def _reference(row: Mapping[str, Any]) -> DriftReference:
    reference, profile = msgspec.msgpack.decode(row["profiles"])
    calibration = json.loads(row["calibration"])
    calibration.pop("lake_versions")
    return DriftReference(
        reference_id=row["reference_id"],
        model=row["model"],
        from_ms=row["from_ms"],
        to_ms=row["to_ms"],
        window_ms=row["window_ms"],
        mode=SetMode(row["mode"]),
        reference=Reference.from_bytes(reference),
        profile=Profile.from_bytes(profile),
        calibration=Calibration.of(calibration),
        created_ms=row["created_ms"],
    )


def halted_spans(lake: Lake) -> list[HaltedSpan]:
    """Return when views were halted, from what gates noted in the lake.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    spans: list[HaltedSpan] = []
    halted: dict[str, HaltedSpan] = {}
    for row in noted(lake, GATE_LOG, ["topic", "gate", "step", "evidence"]):
        topic, at_ms = row["topic"], row["noted_ms"]
        if row["step"] == "halted":
            happened_ms = json.loads(row["evidence"]).get("event_time_ms")
            halted.setdefault(topic, HaltedSpan(topic, row["gate"], at_ms, None, happened_ms))
        elif row["step"] == "resumed" and topic in halted:
            spans.append(halted.pop(topic)._replace(until_ms=at_ms))
    return [*spans, *halted.values()]


@contextmanager
def one_at_a_time(settings: Settings) -> Iterator[None]:
    """Keep others from judging windows for the time of the block; the lock of a process that dies ends with it.

    Raises:
        DriftBusyError: somebody else is at it.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / LOCK_FILE).open("a") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise DriftBusyError(
                f"Windows are being judged by another process: it holds {settings.home / LOCK_FILE}.",
                hint="Nothing needs to be done: it looks at all that there is.",
            ) from error
        yield
