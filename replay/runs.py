"""The folder of a replay: what it does, how far each lane has come, and who is at it.

<home>/replay/<run id>/run.json            the plan, and when the run was done
                       lane-<n>.checkpoint positions, counts, and what the target goes on from
                       lock, lane-<n>.lock held by the processes that are at work; freed by their end
"""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import add
from pathlib import Path
from typing import Final

import msgspec

from config.definition import DEFINITION_VERSION
from replay.errors import ReplayBegunError, ReplayError, ReplayRunningError
from replay.plan import ReplayPlan, ReplayRequest
from replay.targets import Into

RUNS_FOLDER: Final = "replay"
_RUN_FILE: Final = "run.json"
_LANE_WAIT_S: Final = 10.0
_LANE_POLL_S: Final = 0.05


class LaneCounts(msgspec.Struct, frozen=True):
    """What was read in a lane.

    Attributes:
        records: offsets that were looked at, warm-up included.
        events: events of the range that were handed to the target.
        warm_up_events: events before the range.
        dead_letters: records that are no events.
        erased: events of users who were erased since.
    """

    records: int = 0
    events: int = 0
    warm_up_events: int = 0
    dead_letters: int = 0
    erased: int = 0

    def __add__(self, other: "LaneCounts") -> "LaneCounts":
        """Add up two lanes."""
        return LaneCounts(*map(add, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a lane has come.

    Attributes:
        positions: next offset by partition of the lane, in the lane's order.
        floors_ms: greatest append time so far of each.
        target_counts: the target's numbers, as of then.
        target: what the target goes on from; empty when the lane is done.
    """

    positions: tuple[int, ...]
    floors_ms: tuple[int, ...]
    counts: LaneCounts
    target_counts: dict[str, int]
    target: bytes
    is_done: bool = False


class BegunRun(msgspec.Struct, frozen=True):
    """A replay as its folder tells of it; `finished_ms` is None while there is something left to do."""

    plan: ReplayPlan
    begun_ms: int
    finished_ms: int | None = None


_RUN_DECODER: Final = msgspec.json.Decoder(BegunRun)
_CHECKPOINT_DECODER: Final = msgspec.msgpack.Decoder(Checkpoint)


class LaneFile:
    """The checkpoint of one lane.

    Args:
        folder: of the run.
        number: of the lane.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._path = folder / f"lane-{number}.checkpoint"
        self._lock = folder / f"lane-{number}.lock"

    def read(self) -> Checkpoint | None:
        """Return the last checkpoint; None before the first."""
        try:
            return _CHECKPOINT_DECODER.decode(self._path.read_bytes())
        except FileNotFoundError:
            return None

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint: after a crash either the old one is there or the new one."""
        _replace(self._path, msgspec.msgpack.encode(checkpoint))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from this lane; waits for one whose parent was killed to notice it.

        Raises:
            ReplayRunningError: another process is at work on it.
        """
        deadline_s = time.monotonic() + _LANE_WAIT_S
        with self._lock.open("a") as file:
            while not _locked(file.fileno()):
                if time.monotonic() > deadline_s:
                    raise _running(self._path.parent.name)
                time.sleep(_LANE_POLL_S)
            yield


class Run:
    """One replay, locked for this process. Made by `Runs`.

    Attributes:
        finished_ms: when it was done, integer milliseconds UTC; None while something is left to do.
    """

    def __init__(
        self,
        folder: Path,
        plan: ReplayPlan,
        begun_ms: int,
        *,
        is_resumed: bool,
        finished_ms: int | None = None,
    ) -> None:
        self.finished_ms = finished_ms
        self.folder = folder
        self.plan = plan
        self.is_resumed = is_resumed
        self.begun_ms = begun_ms

    def lanes(self) -> dict[int, Checkpoint | None]:
        """Return how far each lane has come."""
        return {number: LaneFile(self.folder, number).read() for number in range(len(self.plan.lanes))}

    def finish(self, now_ms: int) -> None:
        """Note that all is done."""
        _write_run(self.folder, BegunRun(self.plan, self.begun_ms, now_ms))


class Runs:
    """All replays that were begun under one home."""

    def __init__(self, home: Path) -> None:
        self._folder = home / RUNS_FOLDER

    def newest(self, request: ReplayRequest) -> BegunRun | None:
        """Return the run of this request that was begun last, by this definition version; None if there is none."""
        runs = [run for run in self._all().values() if run.plan.definition_version == DEFINITION_VERSION]
        found = [run for run in runs if run.plan.request == request]
        return max(found, key=lambda run: run.begun_ms, default=None)

    @contextmanager
    def begun(self, plan: ReplayPlan, now_ms: int, *, resume: bool, restart: bool) -> Iterator[Run]:
        """Begin a run, or go on with it, while nobody else does.

        Args:
            resume: go on from its checkpoints; without any it begins.
            restart: forget what was done.

        Raises:
            ReplayRunningError: this run, or one that reads a part of its range into the same target, is under way.
            ReplayBegunError: it was begun, and neither is asked for; or it is done, and doing it again would repeat.
        """
        folder = self._folder / plan.run_id
        _make(folder)
        with (folder / "lock").open("a") as file:
            if not _locked(file.fileno()):
                raise _running(plan.run_id)
            self._refuse_overlap(plan)
            found = _read_run(folder)
            if found is not None and not restart:
                _refuse_repetition(found, folder, resume=resume)
            is_resumed = found is not None and resume and not restart
            if not is_resumed:
                for path in folder.glob("lane-*.checkpoint"):
                    path.unlink()
                _write_run(folder, BegunRun(plan, now_ms))
            before = found if is_resumed else None
            yield Run(
                folder,
                plan,
                before.begun_ms if before else now_ms,
                is_resumed=is_resumed,
                finished_ms=before.finished_ms if before else None,
            )

    def _refuse_overlap(self, plan: ReplayPlan) -> None:
        for run_id, run in self._all().items():
            if run_id == plan.run_id or run.finished_ms is not None or not plan.overlaps(run.plan):
                continue
            with (self._folder / run_id / "lock").open("a") as file:
                if not _locked(file.fileno()):
                    raise _running(run_id)

    def _all(self) -> Mapping[str, BegunRun]:
        found = {path.parent.name: _read_run(path.parent) for path in self._folder.glob(f"*/{_RUN_FILE}")}
        return {run_id: run for run_id, run in found.items() if run is not None}


def _refuse_repetition(found: BegunRun, folder: Path, *, resume: bool) -> None:
    if found.finished_ms is not None:
        if found.plan.request.into is Into.TOPIC and not resume:
            raise ReplayBegunError(
                f"This range was published to {found.plan.request.to_topic} already (run {found.plan.run_id}).",
                hint="Add --restart to publish it once more.",
            )
        return
    if not resume:
        records = sum(0 if each is None else each.counts.records for each in _checkpoints(folder, found.plan))
        raise ReplayBegunError(
            f"A replay of this range was begun and stopped after {records:,} of {found.plan.record_count:,} records "
            f"(run {found.plan.run_id}).",
            hint="Add --resume to go on there, or --restart to begin anew.",
        )


def _checkpoints(folder: Path, plan: ReplayPlan) -> list[Checkpoint | None]:
    return [LaneFile(folder, number).read() for number in range(len(plan.lanes))]


def _running(run_id: str) -> ReplayRunningError:
    return ReplayRunningError(
        f"A replay of this range is under way (run {run_id}).",
        hint="Wait until it has ended, or stop it and go on with --resume.",
    )


def _locked(descriptor: int) -> bool:
    """Take the lock of an open file, if it is free; it is freed when the file is closed, also by the kernel."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_run(folder: Path) -> BegunRun | None:
    try:
        return _RUN_DECODER.decode((folder / _RUN_FILE).read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):  # another release's: it cannot be gone on with
        return None


def _write_run(folder: Path, run: BegunRun) -> None:
    _replace(folder / _RUN_FILE, msgspec.json.encode(run))


def _replace(path: Path, content: bytes) -> None:
    whole = path.with_suffix(".new")
    with _explained(path):
        with whole.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)


def _make(folder: Path) -> None:
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say in a sentence that the disk refuses."""
    try:
        yield
    except OSError as error:
        raise ReplayError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Checkpoints of a replay are kept under --home: free some disk space, or choose another folder.",
        ) from error
