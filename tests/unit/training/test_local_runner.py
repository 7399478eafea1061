"""Requests for retrainings are answered once each, and what came of it is noted."""

from pathlib import Path

import pytest

from config.settings import Settings
from sinks.errors import RetrainingNotDueError
from sinks.lake_root import lake_of
from sinks.noting import noted
from sinks.quality_tables import RETRAINING
from sinks.retraining import Retraining
from tests.model_homes import home_settings, shop
from tests.taste_lakes import START_MS, viewed, write_rows
from training.errors import ModelRegistryError, TooLittleDataError
from training.local_runner import run_requested, train_for
from training.models import CHAMPION, Models
from training.run import ACCEPTED, QUEUED, REJECTED, resume


def quiet(_line: str) -> None:
    """Tell nobody."""


def requested(settings: Settings, number: int = 1) -> str:
    answer = Retraining.from_settings(settings).force(reason="a test", now_ms=number)
    assert answer["outcome"] == "requested", answer
    return str(answer["request_id"])


def steps(settings: Settings) -> list[str]:
    return [row["step"] for row in noted(lake_of(settings), RETRAINING)]


@pytest.fixture
def settings(tmp_path: Path, registry: Path) -> Settings:
    return shop(tmp_path / "home", registry)


def test_nothing_is_trained_without_a_request(settings: Settings) -> None:
    assert run_requested(settings, quiet) is None
    assert Models.from_settings(settings).versions() == []


def test_a_request_is_answered_once(settings: Settings) -> None:
    request_id = requested(settings)
    report = run_requested(settings, quiet)
    assert report is not None
    assert report.outcome == ACCEPTED
    assert steps(settings) == ["requested", "started", "validated"]
    row = noted(lake_of(settings), RETRAINING)[-1]
    assert row["detail"].startswith("it beats popularity")
    assert '"model": "1"' in row["evidence"]
    assert Models.from_settings(settings).versions()[0].request_id == request_id
    assert run_requested(settings, quiet) is None
    with pytest.raises(RetrainingNotDueError):
        train_for(settings, request_id, quiet)


def test_a_rejection_is_noted_with_its_reasons(settings: Settings) -> None:
    requested(settings)
    first = run_requested(settings, quiet)
    assert first is not None
    Models.from_settings(settings).set_alias(CHAMPION, first.version or "")
    Retraining.from_settings(settings).note(noted(lake_of(settings), RETRAINING)[-1]["request_id"], "promoted", "", {})
    requested(settings, 2)
    second = run_requested(settings, quiet)
    assert second is not None
    assert second.outcome == REJECTED
    assert steps(settings)[-1] == "rejected"
    assert "does not beat champion" in noted(lake_of(settings), RETRAINING)[-1]["detail"]


def test_a_request_whose_process_was_killed_is_run_again_and_not_registered_twice(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested(settings)

    def killed_at(line: str) -> str:
        def tell(told: str) -> None:
            if told.startswith(line):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_requested(settings, tell)
        return line

    killed_at("Fitting the ranker")
    killed_at("Registering")
    assert steps(settings) == ["requested", "started", "started"]
    assert run_requested(settings, quiet) is None  # what was queued by the second run has answered it
    assert steps(settings) == ["requested", "started", "started", "validated"]
    assert len(Models.from_settings(settings).versions()) == 1


def test_a_request_that_was_registered_but_not_noted_gets_the_verdict(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested(settings)
    note = Retraining.note

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Retraining, "note", killed)
    with pytest.raises(KeyboardInterrupt):
        run_requested(settings, quiet)
    monkeypatch.setattr(Retraining, "note", note)
    report = run_requested(settings, quiet)
    assert report is not None
    assert (report.outcome, report.version) == (ACCEPTED, "1")
    assert steps(settings)[-1] == "validated"
    assert len(Models.from_settings(settings).versions()) == 1


def test_a_training_that_fails_is_noted_and_told(tmp_path: Path, registry: Path) -> None:
    poor = home_settings(tmp_path / "home")
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    (tmp_path / "home" / "mlflow" / "mlflow.db").write_bytes(registry.read_bytes())
    write_rows(poor.lake_path, [viewed("u1", 1, START_MS)])
    requested(poor)
    with pytest.raises(TooLittleDataError):
        run_requested(poor, quiet)
    assert steps(poor) == ["requested", "started", "failed"]
    assert run_requested(poor, quiet) is None


def test_what_kills_its_process_each_time_is_given_up(settings: Settings) -> None:
    request_id = requested(settings)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt), Retraining.from_settings(settings).claim(request_id):
            raise KeyboardInterrupt
    with pytest.raises(Exception, match="was started 3 times, and its process died each time"):
        run_requested(settings, quiet)
    assert steps(settings)[-1] == "failed"


def test_a_registry_that_is_down_leaves_the_request_waiting(settings: Settings) -> None:
    requested(settings)
    training = settings.training.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    with pytest.raises(ModelRegistryError):
        run_requested(settings.model_copy(update={"training": training}), quiet)
    assert steps(settings) == ["requested"]


def test_a_queued_answer_is_noted_when_it_is_registered(settings: Settings, tmp_path: Path) -> None:
    requested(settings)
    file, aside = settings.home / "mlflow" / "mlflow.db", tmp_path / "aside.db"

    def tell(line: str) -> None:
        if line == "Registering":
            file.rename(aside)
            file.mkdir()

    report = run_requested(settings, tell)
    assert report is not None
    assert report.outcome == QUEUED
    assert steps(settings) == ["requested", "started"]
    file.rmdir()
    aside.rename(file)
    assert len(resume(settings)) == 1
    assert steps(settings) == ["requested", "started", "validated"]
