"""What each definition version calls what is its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from config.definition import DEFINITION_VERSION, VERSIONS_BESIDE, versioned

ROOT = Path(__file__).resolve().parents[3]

TELL_NAMES = """
import config.definition
config.definition.DEFINITION_VERSION = {version}
config.definition.VERSIONS_BESIDE = tuple(range(1, {version} + 2))
config.definition.versioned.__defaults__ = ({version},)
from config.settings import Settings, as_environment, load_settings
from feature_repo.fence import fence_key
from features.catalog import ON_DEMAND_VIEW, READ_REQUEST, VIEWS
from sinks.tables import ALL_TABLES, FEATURE_LOG, OTHER_VERSIONS_TABLES, REPAIRS, application_id
from streams.observing import workers_folder
settings = load_settings()
print(*(f"{{view.view}} {{view.push_source}}" for view in VIEWS.values()), ON_DEMAND_VIEW, READ_REQUEST)
print(fence_key("shop", "t"), settings.worker.group_id, workers_folder(settings).name)
print(FEATURE_LOG.name, REPAIRS.name, application_id("id", 0, FEATURE_LOG))
print(*(table.name for table in OTHER_VERSIONS_TABLES))
print(load_settings({{"worker": {{"group_id": "mine"}}}}).worker.group_id)
"""


def names_of(version: int, tmp_path: Path) -> list[str]:
    """Return what code of a definition version prints of its names."""
    program = TELL_NAMES.format(version=version)
    command = [sys.executable, "-c", program]
    run = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    return run.stdout.splitlines()


def test_this_code_computes_version_1() -> None:
    assert DEFINITION_VERSION == 1
    assert VERSIONS_BESIDE == (1, 2)


@pytest.mark.parametrize(
    ("name", "version", "joint", "expected"),
    [
        ("feature_log", 1, "_", "feature_log"),
        ("feature_log", 2, "_", "feature_log_v2"),
        ("feature_log_v2", 2, "_", "feature_log_v2"),
        ("group", 12, "-", "group-v12"),
        ("", 3, "-", "-v3"),
    ],
)
def test_a_name_gets_its_suffix_once_and_version_1_gets_none(
    name: str, version: int, joint: str, expected: str
) -> None:
    assert versioned(name, version, joint=joint) == expected


def test_the_names_of_version_1_are_those_of_the_first_release(tmp_path: Path) -> None:
    assert names_of(1, tmp_path) == [
        "user_clicks_v1 user_clicks_push user_carts_v1 user_carts_push session_features_v1 session_features_request",
        "shop:fence:t shopstream-features workers",
        "feature_log repairs id-0-feature_log",
        "feature_log_v2 repairs_v2",
        "mine",
    ]


def test_another_version_shares_no_name_with_it(tmp_path: Path) -> None:
    request = "session_features_request_v2"
    assert names_of(2, tmp_path) == [
        "user_clicks_v2 user_clicks_push_v2 user_carts_v2 user_carts_push_v2 session_features_v2 " + request,
        "shop:fence_v2:t shopstream-features-v2 workers_v2",
        "feature_log_v2 repairs_v2 id-0-feature_log_v2",
        "feature_log repairs feature_log_v3 repairs_v3",
        "mine-v2",
    ]


def test_a_child_process_gets_the_same_group(tmp_path: Path) -> None:
    program = TELL_NAMES.format(version=2) + (
        "import os; os.environ.update(as_environment(settings)); print(load_settings().worker.group_id)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert told.stdout.splitlines()[-1] == "shopstream-features-v2"
