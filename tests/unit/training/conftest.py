"""Fixtures of tests that train models or judge windows."""

from pathlib import Path

import pytest

from config.settings import Settings
from tests import drift_shop
from tests.model_homes import make_registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty registry of models, to be copied."""
    return make_registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def drift_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with a reference of drift, to be copied."""
    home = tmp_path_factory.mktemp("drift")
    drift_shop.make(home)
    return home


@pytest.fixture
def drifting(drift_home: Path, tmp_path: Path) -> Settings:
    """A shop of one's own with a reference of drift, and no window judged yet."""
    return drift_shop.copied(drift_home, tmp_path / "home")
