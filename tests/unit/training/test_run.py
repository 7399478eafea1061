"""A training from the lake to the registry: who wins, who is rejected and why, and what is said where none can be."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from config.settings import Settings
from sinks.lake_root import lake_of
from tests.model_homes import QUICK, home_settings, shop
from tests.taste_lakes import DAY_MS, HOUR_MS, START_MS, Row, viewed, write_rows
from training.artefacts import checked_files
from training.errors import LabelsError, ModelRegistryError, NotInLakeError, TooLittleDataError
from training.mlflow_server import MlflowServer
from training.model_log import ModelLog, Step
from training.models import CHALLENGER, CHAMPION, Models
from training.registering import queued
from training.run import ACCEPTED, QUEUED, REJECTED, TrainingReport, resume, train


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, registry: Path) -> Settings:
    return shop(tmp_path_factory.mktemp("shop"), registry)


@pytest.fixture(scope="module")
def report(settings: Settings) -> TrainingReport:
    return train(settings)


def steps(settings: Settings) -> list[tuple[str, Step]]:
    return [(row.model, row.step) for row in ModelLog(lake_of(settings)).steps()]


def test_planted_structure_beats_popularity_and_the_model_is_the_challenger(
    settings: Settings, report: TrainingReport
) -> None:
    assert report.outcome == ACCEPTED
    gain = report.about["figures"]["gains"]["popularity"]
    assert gain["low"] > 0
    assert gain["low"] < gain["mean"] < gain["high"]
    assert report.reasons[0].startswith("it beats popularity: NDCG@10 differs by +")
    models = Models.from_settings(settings)
    challenger = models.alias(CHALLENGER)
    assert challenger is not None
    assert challenger.version == report.version == "1"
    assert models.alias(CHAMPION) is None
    assert ("1", Step.REGISTERED) in steps(settings)
    assert ("1", Step.REJECTED) not in steps(settings)
    products = models.load("1").recommend("u3", {"last_products_24h": ["p1", "p2"]}, 10)
    assert len(products) == 10


def test_every_figure_is_beside_those_of_the_baselines(report: TrainingReport) -> None:
    figures = report.about["figures"]
    systems = figures["systems"]
    assert set(systems) == {"challenger", "popularity", "co-views"}
    for measured in systems.values():
        assert {"hit_rate_at_10", "ndcg_at_10", "coverage"} <= set(measured)
        assert 0 <= measured["ndcg_at_10"] <= measured["hit_rate_at_10"] <= 1
    assert systems["challenger"]["calibration_error"] < 0.1
    assert 0 < systems["challenger"]["latency_p50_ms"] <= systems["challenger"]["latency_p99_ms"]
    assert {"device phone", "device desktop", "new users", "heavy users"} <= set(figures["slices"])
    devices = [figures["slices"][f"device {name}"]["queries"] for name in ("phone", "desktop")]
    assert sum(devices) == figures["queries"]


def test_the_manifest_has_figures_verdict_and_lineage(settings: Settings, report: TrainingReport) -> None:
    found = Models.from_settings(settings).versions()[0]
    manifest, files = checked_files(found.folder, found.manifest_sha256)
    assert manifest["about"] == json.loads(json.dumps(report.about)) == found.about
    lineage = found.lineage
    assert lineage["lake_versions"]["raw_events"] == 1
    assert {each["table"] for each in lineage["positions"]} == {"raw_events"}
    assert lineage["definition_version"] == 1
    assert lineage["schema_fingerprints"][0]["schema_id"] == 1
    set_manifest = json.loads((Path(lineage["training_set_path"]) / "_manifest.json").read_text())
    assert set_manifest["set_id"] == lineage["training_set"]
    assert set_manifest["rows"] <= settings.training.queries_max
    assert set(files) == {"users.safetensors", "products.safetensors", "products.json", "ranker.txt", "model.json"}
    assert not list(found.folder.parent.glob(".*.partial"))


def test_mlflow_holds_the_figures_and_the_lineage_of_the_run(settings: Settings, report: TrainingReport) -> None:
    server = MlflowServer(f"sqlite:///{(settings.home / 'mlflow').absolute() / 'mlflow.db'}", 1)
    experiment = server.ask(lambda client: client.get_experiment_by_name("shopstream-recommender"))
    runs = server.ask(lambda client: client.search_runs([experiment.experiment_id]))
    assert len(runs) == 1
    measured = report.about["figures"]["systems"]["challenger"]["ndcg_at_10"]
    assert runs[0].data.metrics["systems/challenger/ndcg_at_10"] == measured
    assert json.loads(runs[0].data.tags["lake_versions"]) == {"raw_events": 1}
    assert runs[0].info.status == "FINISHED"


def test_training_again_gives_the_same_files_and_figures(
    tmp_path: Path, registry: Path, settings: Settings, report: TrainingReport
) -> None:
    home = shop(tmp_path / "home", registry)
    again = train(home)
    files = [
        checked_files(found.folder, found.manifest_sha256)[1]
        for found in (Models.from_settings(each).versions()[0] for each in (settings, home))
    ]
    assert files[0] == files[1]

    def figures(of: TrainingReport) -> Any:
        systems = {name: dict(each) for name, each in of.about["figures"]["systems"].items()}
        for each in systems.values():
            each.pop("latency_p50_ms", None), each.pop("latency_p99_ms", None)
        return systems, of.about["figures"]["gains"], of.about["figures"]["slices"]

    assert figures(again) == figures(report)


def shuffled(rows: list[Row], until_ms: int, seed: int) -> list[Row]:
    """Deal the products of the events before an instant out anew, so that they say nothing about who took them."""
    early = [row for row in rows if row["event_time_ms"] < until_ms]
    products = [(row["product_id"], row["category_id"]) for row in early]
    Random(seed).shuffle(products)
    dealt = [
        {**row, "product_id": product, "category_id": category}
        for row, (product, category) in zip(early, products, strict=True)
    ]
    return dealt + rows[len(early) :]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_challenger_that_learned_from_shuffled_labels_is_rejected_with_the_reason(
    tmp_path: Path, registry: Path, seed: int
) -> None:
    home = shop(tmp_path / "home", registry)
    lake = tmp_path / "shuffled"
    write_rows(lake, shuffled(QUICK.rows(), START_MS + QUICK.range_ms * 4 // 5, seed))
    poor = train(home.model_copy(update={"lake": home.lake.model_copy(update={"path": str(lake)})}))
    assert poor.outcome == REJECTED
    assert any("does not beat popularity beyond noise" in reason for reason in poor.reasons)
    assert Models.from_settings(home).alias(CHALLENGER) is None
    assert ModelLog(lake).newest()["1"].step is Step.REJECTED
    assert ModelLog(lake).newest()["1"].reason == "; ".join(poor.reasons)


def test_a_challenger_must_beat_the_champion_on_the_same_queries(
    settings: Settings, report: TrainingReport, tmp_path: Path
) -> None:
    models = Models.from_settings(settings)
    models.set_alias(CHAMPION, "1")
    same = train(settings)
    assert same.outcome == REJECTED
    assert "does not beat champion beyond noise: NDCG@10 differs by +0.0000" in same.reasons[0]
    assert same.about["figures"]["systems"]["champion"]["ndcg_at_10"] == pytest.approx(
        same.about["figures"]["systems"]["challenger"]["ndcg_at_10"]
    )
    assert same.about["lineage"]["champion"] == "1"
    challenger = models.alias(CHALLENGER)
    assert challenger is not None
    assert challenger.version == "1"


def test_a_champion_whose_files_were_changed_is_told_and_no_rival(tmp_path: Path, registry: Path) -> None:
    home = shop(tmp_path / "home", registry)
    models = Models.from_settings(home)
    first = train(home)
    models.set_alias(CHAMPION, first.version or "")
    (models.versions()[0].folder / "ranker.txt").write_text("tree")
    second = train(home)
    assert second.about["figures"]["rival"] == "popularity"
    assert any("The champion 1 cannot be compared with" in warning for warning in second.warnings)


# -- what cannot be trained on --------------------------------------------------------------------------------------


def refused(home: Path, rows: list[Row], error: type[Exception], words: str, **arguments: Any) -> None:
    settings = home_settings(home)
    if rows:
        write_rows(settings.lake_path, rows)
    with pytest.raises(error, match=words):
        train(settings, **arguments)
    assert not (settings.home / "models" / "pending").exists()


@pytest.fixture
def home(tmp_path: Path, registry: Path) -> Path:
    folder = tmp_path / "home"
    (folder / "mlflow").mkdir(parents=True)
    (folder / "mlflow" / "mlflow.db").write_bytes(registry.read_bytes())
    return folder


def test_a_lake_without_events_is_refused(home: Path) -> None:
    refused(home, [], NotInLakeError, "holds no events")


def test_events_without_products_are_refused(home: Path) -> None:
    rows = [{**viewed("u1", 1, START_MS + n), "product_id": None} for n in range(200)]
    refused(home, rows, TooLittleDataError, "no event with a product")


def test_too_few_events_are_refused_with_the_count(home: Path) -> None:
    rows = [viewed(f"u{n}", n, START_MS + n * HOUR_MS // 4) for n in range(90)]
    refused(home, rows, TooLittleDataError, r"\d+ events with a product lie before the hold-out.*asks for 100")


def test_one_product_is_one_class(home: Path) -> None:
    rows = [viewed(f"u{n}", 1, START_MS + n * 60_000) for n in range(2_000)]
    refused(home, rows, TooLittleDataError, "one class: .*every one")


def test_an_empty_range_is_refused(home: Path) -> None:
    refused(home, QUICK.rows()[:5], LabelsError, "range is empty", from_ms=START_MS, to_ms=START_MS)


def test_a_range_without_a_part_is_refused(home: Path) -> None:
    rows = [viewed(f"u{n % 9}", n % 7, START_MS + n * 1_000) for n in range(500)]
    rows += [viewed("u1", 1, START_MS + DAY_MS)]
    refused(home, rows, TooLittleDataError, "in the sessions that the ranker learns from", from_ms=START_MS)


# -- a registry that is down ----------------------------------------------------------------------------------------


def test_a_registry_that_is_down_is_told_before_anything_is_trained(tmp_path: Path, registry: Path) -> None:
    down = shop(tmp_path / "home", registry, tracking_uri="http://127.0.0.1:9")
    told: list[str] = []
    with pytest.raises(ModelRegistryError):
        train(down, tell=told.append)
    assert told == []


def test_a_registry_that_goes_down_meanwhile_queues_the_model_and_it_is_registered_once(
    tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shop(tmp_path / "home", registry)
    file = home.home / "mlflow" / "mlflow.db"
    aside = tmp_path / "aside.db"

    def tell(line: str) -> None:
        if line == "Registering":  # the disk of the registry goes
            file.rename(aside)
            file.mkdir()

    models = Models.from_settings(home)
    report = train(home, tell=tell)
    assert (report.outcome, report.version) == (QUEUED, None)
    assert any("registry of models" in warning for warning in report.warnings)
    assert [pending.key for pending in queued(models.artefacts)] == [report.key]
    with pytest.raises(ModelRegistryError):
        resume(home)
    file.rmdir()
    aside.rename(file)
    done = resume(home)
    assert [(each.found.version, each.is_accepted) for each in done] == [("1", True)]
    assert resume(home) == []
    assert queued(models.artefacts) == []
    assert steps(home) == [("1", Step.REGISTERED)]
    challenger = Models.from_settings(home).alias(CHALLENGER)
    assert challenger is not None
    assert challenger.key == report.key


def test_a_verdict_beside_another_champion_does_not_count(tmp_path: Path, registry: Path, settings: Settings) -> None:
    home = shop(tmp_path / "home", registry)
    models = Models.from_settings(home)
    train(home)

    def tell(line: str) -> None:
        if line == "Registering":
            models.set_alias(CHAMPION, "1")

    second = train(home, tell=tell)
    assert second.outcome == REJECTED
    assert second.reasons == ("it was compared with no champion, and 1 is the champion now: train again",)


@pytest.mark.parametrize("point", [(ModelLog, "append"), (Models, "set_alias"), (Path, "unlink")])
def test_a_registration_that_is_killed_between_its_parts_is_finished_once(
    tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch, point: tuple[type, str]
) -> None:
    home = shop(tmp_path / "home", registry)
    owner, name = point
    real = getattr(owner, name)

    def killed(*arguments: Any, **more: Any) -> Any:
        if owner is not Path:  # it is done, and then the process dies
            real(*arguments, **more)
        elif arguments[0].suffix != ".json":
            return real(*arguments, **more)
        raise KeyboardInterrupt

    def tell(line: str) -> None:
        if line == "Registering":
            monkeypatch.setattr(owner, name, killed)

    with pytest.raises(KeyboardInterrupt):
        train(home, tell=tell)
    monkeypatch.undo()
    assert [each.found.version for each in resume(home)] == ["1"]
    assert steps(home) == [("1", Step.REGISTERED)]
    assert len(Models.from_settings(home).versions()) == 1
    challenger = Models.from_settings(home).alias(CHALLENGER)
    assert challenger is not None
    assert challenger.version == "1"
