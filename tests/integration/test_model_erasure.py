"""`shopstream lake erase` on real services reaches the models and their training sets, and nothing else is left."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.context import Invocation
from cli.lake import app
from config.settings import Settings
from feature_repo.opening import apply_definitions
from tests.model_homes import KEY, QUICK
from tests.taste_lakes import write_rows
from training.models import Models
from training.run import train

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

VICTIM = "the-one-who-leaves-7f3a"


def erase(settings: Settings, *arguments: str) -> dict[str, Any]:
    overrides = settings.model_dump(mode="python", exclude_unset=True)
    told = CliRunner().invoke(app, ["erase", *arguments, "--yes", "--json"], obj=Invocation(overrides=overrides))
    assert told.exit_code == 0, told.output
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


def test_an_erased_user_is_in_no_model_any_more(settings: Settings) -> None:
    training = settings.training.model_copy(update={"mode": "as_corrected", "min_events": 100, "queries_max": 800})
    privacy = settings.privacy.model_copy(update={"key": type(settings.privacy.key)(KEY)})
    own = settings.model_copy(update={"training": training, "privacy": privacy})
    apply_definitions(own)
    rows = [{**row, "user_id": VICTIM if row["user_id"] == "u3" else row["user_id"]} for row in QUICK.rows()]
    write_rows(own.lake_path, rows)
    train(own)
    models = Models.from_settings(own)
    former = models.versions()[0]
    assert models.load("1").source.factors.users.find(VICTIM) is not None

    report = erase(own, VICTIM)
    assert report["models"] == [{"model": "1", "users": 1, "outcome": "written anew"}]
    assert [each["outcome"] for each in report["sets"]] == ["written anew"]
    assert models.load("1").source.factors.users.find(VICTIM) is None
    assert models.versions()[0].manifest_sha256 != former.manifest_sha256
    held = [path for path in own.home.rglob("*") if path.is_file() and VICTIM.encode() in path.read_bytes()]
    assert held == []
    assert erase(own, "--again")["models"] == [{"model": "1", "users": 0, "outcome": "clean"}]

    again = train(own)  # of a lake without the user
    assert models.load(again.version or "").source.factors.users.find(VICTIM) is None
