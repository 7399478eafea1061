"""After a promotion the reference of drift moves to the data that the new champion was trained on."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from config.settings import Settings
from serving.rollout_ports import Trained
from sinks.lake_root import Lake, lake_of
from sinks.noting import DAY_MS, noted
from sinks.quality_tables import DRIFT_REFERENCES

logger = logging.getLogger(__name__)


class Stretch(NamedTuple):
    """Event times from `from_ms` to before `to_ms`."""

    from_ms: int
    to_ms: int


def move_baseline(settings: Settings, model: Trained, promoted_ms: int, newest_ms: int | None) -> Mapping[str, Any]:
    """Take the reference of drift for a model that was promoted; say what came of it, as JSON has it.

    The first stretch is taken that can be: from where the drift began that the model was trained for, if that is a day
    or more, because its former data would make the present look strange for ever; else all that it was trained on.
    Where neither has enough windows, the reference that is in force stays. Repeating it is harmless.

    Args:
        promoted_ms: when the model was promoted, by the wall clock.
        newest_ms: newest event time that the canary has seen.

    Raises:
        ShopstreamError: the lake or the feature store cannot be used.
    """
    from training.drift_reference import take_reference
    from training.errors import TrainingError

    lake = lake_of(settings)
    for row in noted(lake, DRIFT_REFERENCES, ["reference_id", "model", "from_ms", "to_ms", "created_ms"]):
        if row["model"] == model.version and row["created_ms"] >= promoted_ms:
            return {name: row[name] for name in ("reference_id", "from_ms", "to_ms")}
    why = "it is not known what the model was trained on"
    for stretch in stretches(settings, lake, model, newest_ms):
        try:
            reference_id = take_reference(settings, stretch.from_ms, stretch.to_ms, model.version)
        except TrainingError as error:
            why = str(error)
            continue
        return {"reference_id": reference_id, **stretch._asdict()}
    logger.warning("the reference of drift stays as it is: %s", why)
    return {"kept": why}


def stretches(settings: Settings, lake: Lake, model: Trained, newest_ms: int | None) -> Iterator[Stretch]:
    """Yield the stretches that a reference may be taken of, the best first: see `move_baseline`.

    Raises:
        LakeUnavailableError: the lake cannot be read.
    """
    from training.drift_beginning import drift_began_ms

    began_ms = drift_began_ms(settings, lake, model.request_id)
    if began_ms is not None:
        end_ms = max(model.to_ms, newest_ms or 0)
        if end_ms - began_ms >= DAY_MS:  # all hours of a day, or nights would look strange
            yield Stretch(began_ms, end_ms)
    if model.from_ms < model.to_ms:
        yield Stretch(model.from_ms, model.to_ms)
