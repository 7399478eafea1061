"""Homes in which models can be trained within seconds: no service, a registry that is there already."""

import shutil
from pathlib import Path
from typing import Any

from config.settings import Settings, load_settings
from tests.taste_lakes import DAY_MS, TasteWorld, write_rows
from training.models import Models

QUICK = TasteWorld(users=120, groups=12, size=10, visits=8)
KEY = "0123456789abcdef"


def home_settings(home: Path, **training: Any) -> Settings:
    """Return settings of a home with no service that answers; sets are made as corrected."""
    return load_settings(
        {
            "home": home,
            "redis": {"url": "redis://localhost:1/0"},
            "registry": {"url": ""},
            "privacy": {"key": KEY},
            "training": {
                "mode": "as_corrected", "min_events": 100, "history_ms": 2 * DAY_MS, "queries_max": 800,
                "latency_max_ms": 10_000, **training,
            },
        }
    )  # fmt: skip


def make_registry(folder: Path) -> Path:
    """Create an empty registry of models, which takes seconds, and return its file."""
    Models(f"sqlite:///{folder / 'mlflow.db'}", folder / "models").versions()
    return folder / "mlflow.db"


def shop(home: Path, registry: Path, world: TasteWorld = QUICK, **training: Any) -> Settings:
    """Return settings of a home whose lake holds a world, and whose registry is a copy."""
    settings = home_settings(home, **training)
    (home / "mlflow").mkdir(parents=True)
    shutil.copy(registry, home / "mlflow" / "mlflow.db")
    write_rows(settings.lake_path, world.rows())
    return settings
