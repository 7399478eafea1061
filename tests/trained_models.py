"""A small shop whose model is really trained, and more versions of the same files."""

import json
import shutil
from pathlib import Path
from typing import Any

from config.settings import Settings
from sinks.lake_root import lake_of
from tests.taste_lakes import START_MS, TasteWorld, write_rows
from training.artefacts import seal
from training.models import Models, TrainedVersion
from training.run import train

WORLD = TasteWorld(users=150, groups=8, size=8, visits=5)


def small(settings: Settings) -> Settings:
    """Return settings that train on what the lake has of few users, whatever they were served."""
    training = settings.training.model_copy(update={"mode": "as_corrected", "min_events": 100})
    return settings.model_copy(update={"training": training})


def trained(settings: Settings, world: TasteWorld = WORLD) -> TrainedVersion:
    """Write a shop's events into the lake, train on them and return the version that was registered."""
    Path(str(lake_of(settings))).mkdir(parents=True, exist_ok=True)
    write_rows(Path(str(lake_of(settings))), world.rows())
    report = train(small(settings), from_ms=START_MS, to_ms=world.to_ms)
    return next(found for found in Models.from_settings(settings).versions() if found.version == report.version)


def another(models: Models, found: TrainedVersion, key: str, **lineage: Any) -> TrainedVersion:
    """Register a copy of a version's files as another version."""
    partial = models.artefacts / f"{key}.copied"
    shutil.copytree(found.folder, partial)
    about = json.loads((partial / "manifest.json").read_text())["about"]
    about["lineage"] |= lineage
    sha = seal(partial, {"about": about})
    partial.rename(models.folder(key, sha))
    return models.register(key, sha)
