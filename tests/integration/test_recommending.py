"""A model that was really trained recommends from features that a worker wrote; what people may do with it, typed."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.worker_process import stop_worker, worker_process
from config.errors import ShopstreamError
from config.settings import Settings, as_environment
from schemas.event import CLICKS_TOPIC, Event
from serving.errors import NoModelError
from serving.models_in_service import loaded
from sinks.lake_root import lake_of
from sinks.noting import noted
from sinks.quality_tables import MODEL_LOG, RECOMMENDATIONS
from tests.trained_models import another, small, trained
from tests.worker_runs import send, tail, wait_committed, wait_ready
from traffic.sent_log import SentLog
from traffic.timed import Mark, TimedEvent
from training.artefacts import ArtefactError
from training.models import Models

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

KEY = "a key of the tests, long enough"


def call(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=as_environment(settings))


def answered(settings: Settings, *arguments: str) -> Any:
    """Call with --json; return the object that was printed."""
    result = call(settings, *arguments, "--json")
    assert result.exit_code == 0, result.exception or result.stderr
    return json.loads(result.stdout)


def refused(settings: Settings, *arguments: str) -> ShopstreamError:
    """Call; return the error, of which `run` prints the sentence and exits with 1."""
    found = call(settings, *arguments).exception
    assert isinstance(found, ShopstreamError), found
    return found


def with_key(settings: Settings) -> Settings:
    privacy = settings.privacy.model_copy(update={"key": type(settings.privacy.key)(KEY)})
    return settings.model_copy(update={"privacy": privacy})


def visit(user_id: str, products: list[str]) -> list[TimedEvent]:
    now_ms = time.time_ns() // 1_000_000
    return [
        TimedEvent(
            0,
            CLICKS_TOPIC,
            Event(
                event_id=f"{user_id}-{n}",
                kind="page_view",
                user_id=user_id,
                event_time_ms=now_ms + n,
                product_id=product,
                category_id="c3",
            ),
            Mark.PLAIN,
        )
        for n, product in enumerate(products)
    ]


def rows_of(settings: Settings, user_id: str) -> list[Mapping[str, Any]]:
    return [row for row in noted(lake_of(settings), RECOMMENDATIONS) if row["user_id"] == user_id]


def test_from_no_model_to_an_erasure(settings: Settings, tmp_path: Path) -> None:
    settings, log_path = with_key(settings), tmp_path / "worker.log"
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        send(settings, visit("u7", ["p25", "p26", "p27"]), SentLog())
        wait_committed(settings, log_path)
        assert stop_worker(process) == 0, tail(log_path)

    error = refused(settings, "recommend", "u7")
    assert isinstance(error, NoModelError)
    assert "no champion yet" in error.message
    assert answered(settings, "models", "list") == {"models": [], "canary": None}

    first = trained(settings)
    before = answered(settings, "recommend", "u7", "--k", "3")
    assert (before["model"], before["role"], len(before["product_ids"])) == (first.version, "fallback", 3)
    steps = answered(settings, "models", "guard")["steps"]
    assert [(step["step"], step["by"]) for step in steps] == [("staged", "guard"), ("promoted", "guard")]

    known, stranger = (answered(settings, "recommend", user) for user in ("u7", "nobody before"))
    assert {found["role"] for found in (known, stranger)} == {"champion"}
    assert stranger["product_ids"] == list(loaded(Models.from_settings(settings).load, first.version).popular[:10])
    assert len(set(known["product_ids"])) == 10
    assert set(known["product_ids"][:5]) & {f"p{number}" for number in range(24, 32)}, "what u7 just looked at"
    kept = rows_of(settings, "u7")
    assert [row["recommendation_id"] for row in kept] == [before["recommendation_id"], known["recommendation_id"]]
    assert kept[1]["product_ids"] == known["product_ids"]
    assert 0 < kept[1]["seconds"] < known["seconds"]
    assert "by model 1 (champion)" in call(settings, "recommend", "u7").stdout

    erased = call(settings, "lake", "erase", "u7", "--yes", "--json")
    assert erased.exit_code == 0, erased.exception or erased.stderr
    assert rows_of(settings, "u7") == []
    assert len(rows_of(settings, "nobody before")) == 1
    after = answered(settings, "recommend", "u7")
    assert (after["role"], after["product_ids"]) == ("champion", stranger["product_ids"])
    wrong_use = call(settings, "recommend", "u7", "--k", "0")
    assert wrong_use.exit_code == 2
    assert "--k" in wrong_use.stderr
    assert "user ''" in refused(settings, "recommend", "").message


def test_the_way_of_models_as_it_is_typed(settings: Settings) -> None:
    settings = small(settings)  # the reference of drift can be looked for without a feature store
    first = trained(settings)
    models = Models.from_settings(settings)
    for key in ("second", "third"):
        another(models, first, key)

    assert answered(settings, "models", "promote", "1", "--reason", "it is the first")["steps"][0]["step"] == "promoted"
    answered(settings, "models", "stage", "2")
    assert answered(settings, "models", "canary", "2", "--reason", "try it")["steps"][0]["evidence"]["share"] == 0.1
    listed = answered(settings, "models", "list")
    assert [(row["version"], row["roles"]) for row in listed["models"]] == [
        ("3", []),
        ("2", ["canary"]),
        ("1", ["champion"]),
    ]
    assert (listed["canary"]["model"], listed["canary"]["fate"]) == ("2", "wait")
    row = listed["models"][-1]
    assert 0 < row["ndcg_at_10"] <= 1
    assert row["gain"]["rival"] == "popularity"
    text = call(settings, "models", "list").stdout
    assert "Model 2 is the canary since" in text
    assert f"{row['ndcg_at_10']:.4f}" in text

    shown = answered(settings, "models", "show", "1")
    assert {"figures", "verdict", "lineage", "manifest_sha256", "roles", "steps"} <= set(shown)
    (promoted,) = [step for step in shown["steps"] if step["step"] == "promoted"]
    assert promoted["by"].startswith("command:")
    assert promoted["reason"] == "it is the first"
    text = call(settings, "models", "show", "1").stdout
    assert "it is the first" in text
    assert shown["manifest_sha256"] in text

    assert answered(settings, "models", "rollback", "--reason", "a complaint")["steps"][0]["model"] == "2"
    assert answered(settings, "models", "guard") == {"steps": [], "canary": None}
    assert "--force" in str(refused(settings, "models", "promote", "2", "--reason", "again").hint)
    answered(settings, "models", "promote", "2", "--reason", "again", "--force")
    assert answered(settings, "models", "rollback", "--reason", "no")["steps"][0]["evidence"]["to"] == "1"
    assert "neither a canary nor a former" in refused(settings, "models", "rollback", "--reason", "more").message

    for arguments in (["show", "9"], ["stage", "9"], ["promote", "9", "--reason", "why not"]):
        assert "There is no model 9" in refused(settings, "models", *arguments).message
    ranker = models.versions()[2].folder / "ranker.txt"
    ranker.write_bytes(ranker.read_bytes() + b" ")
    for arguments in (["stage", "3"], ["promote", "3", "--reason", "it is new"]):
        assert isinstance(refused(settings, "models", *arguments), ArtefactError)
    assert call(settings, "models", "promote", "3", "--reason", " ").exit_code == 2
    assert call(settings, "models", "promote", "3").exit_code == 2
    audit = [(row["model"], row["step"]) for row in noted(lake_of(settings), MODEL_LOG)]
    assert audit[-3:] == [("2", "rolled_back"), ("2", "promoted"), ("2", "rolled_back")]
