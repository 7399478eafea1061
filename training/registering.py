"""Brings sealed files into the registry exactly once, though it may be down and this process may be killed.

What is to be registered is first a file under `<artefacts>/pending`; it goes when nothing remains to be done. Each step
may be repeated: MLflow is asked for the run of the training before one is created, and the lake for the rows.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any, Final, NamedTuple

from config.words import moment
from sinks.lake_root import Lake
from training.errors import TrainingError
from training.model_log import ModelLog, ModelStep, Step
from training.models import CHALLENGER, CHAMPION, Models, TrainedVersion

PENDING: Final = "pending"
BY: Final = "training"
_LOCK_FILE: Final = ".registering.lock"


class Pending(NamedTuple):
    """Sealed files that are to be registered.

    Attributes:
        key: id of their training.
    """

    key: str
    manifest_sha256: str


class Registration(NamedTuple):
    """What became of a version.

    Attributes:
        is_accepted: whether it is the challenger now, or has been.
        reasons: in words.
    """

    found: TrainedVersion
    is_accepted: bool
    reasons: tuple[str, ...]


def queue(artefacts: Path, pending: Pending) -> None:
    """Note that sealed files are to be registered, in the place of others of the same training."""
    folder = artefacts / PENDING
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{pending.key}.partial"
    partial.write_text(json.dumps(pending._asdict()))
    partial.replace(_file(artefacts, pending.key))


def queued(artefacts: Path) -> list[Pending]:
    """Return what is to be registered, oldest first.

    Raises:
        TrainingError: a file cannot be read.
    """
    found = []
    for path in sorted((artefacts / PENDING).glob("*.json")):
        try:
            found.append(Pending(**json.loads(path.read_text())))
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(
                f"What is to be registered cannot be read from {path}: {error}.", hint="Delete it; then train again."
            ) from error
    return found


def register(
    lake: Lake, models: Models, pending: Pending, answer: Callable[[Registration], None] = lambda _done: None
) -> Registration:
    """Register, note it in the log of models, and make an accepted version the challenger; blocking.

    Args:
        answer: called before it leaves the queue, so that whoever asked for it hears of it though this is killed.

    Raises:
        ModelRegistryError: the registry does not answer; what is to be registered stays queued.
        LakeUnavailableError: a row was not noted; it stays queued.
        ArtefactError: the files are not those that were sealed.
    """
    found = models.register(pending.key, pending.manifest_sha256)
    log = ModelLog(lake)
    steps = {row.step for row in log.steps(found.version)}
    is_accepted, reasons = _decided(models, found)
    if Step.REGISTERED not in steps:
        _note(log, found, Step.REGISTERED, f"trained on {moment(found.from_ms)} to {moment(found.to_ms)}")
    if not is_accepted and Step.REJECTED not in steps:
        _note(log, found, Step.REJECTED, "; ".join(reasons))
    elif is_accepted and steps <= {Step.REGISTERED}:
        models.set_alias(CHALLENGER, found.version)
    done = Registration(found, is_accepted, reasons)
    answer(done)
    _file(models.artefacts, pending.key).unlink(missing_ok=True)
    return done


@contextmanager
def alone(artefacts: Path) -> Iterator[None]:
    """Keep other processes from registering, and from writing models anew, for the time of the block; it waits."""
    artefacts.mkdir(parents=True, exist_ok=True)
    with (artefacts / _LOCK_FILE).open("a") as lock:
        flock(lock, LOCK_EX)
        yield


def _decided(models: Models, found: TrainedVersion) -> tuple[bool, tuple[str, ...]]:
    """Return the verdict; one that was found beside another champion than the present one says nothing."""
    verdict, rival = found.verdict, found.lineage["champion"]
    champion = models.alias(CHAMPION)
    version = None if champion is None else champion.version
    if verdict["is_accepted"] and version not in {rival, found.version}:
        was = "no champion" if rival is None else f"the champion {rival}"
        return False, (f"it was compared with {was}, and {version or 'none'} is the champion now: train again",)
    return verdict["is_accepted"], tuple(verdict["reasons"])


def _note(log: ModelLog, found: TrainedVersion, step: Step, reason: str) -> None:
    evidence: dict[str, Any] = {"figures": found.figures}
    if found.request_id is not None:
        evidence["request_id"] = found.request_id
    noted_ms = log.next_ms(time.time_ns() // 1_000_000)
    log.append(ModelStep(found.version, step, BY, reason, noted_ms, evidence))


def _file(artefacts: Path, key: str) -> Path:
    return artefacts / PENDING / f"{key}.json"
