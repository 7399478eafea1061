"""`shopstream train run`: exit codes, the table beside the baselines, the reasons, what was queued."""

import json
from pathlib import Path

import pytest

from cli.main import run
from tests.model_homes import make_registry, shop
from training.models import CHAMPION, Models


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "registry").mkdir()
    shop(tmp_path / "home", make_registry(tmp_path / "registry"))
    return tmp_path / "home"


def call(home: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    training = {"mode": "as_corrected", "min_events": 100, "queries_max": 800, "latency_max_ms": 10_000}
    own = ["registry.url=", *(f"training.{name}={value}" for name, value in training.items())]
    options = [word for setting in own for word in ("--set", setting)]
    with pytest.raises(SystemExit) as ended:
        run(["--home", str(home), *options, "train", "run", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def test_a_model_is_told_beside_what_it_had_to_beat(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(home, capsys)
    assert code == 0, err
    assert "Fitting the ranker" in err
    for name in ("challenger", "popularity", "co-views", "NDCG@10", "of device phone"):
        assert name in out
    assert "Model 1 is accepted" in out
    assert "it beats popularity: NDCG@10 differs by +" in out
    Models(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}", home / "models").set_alias(CHAMPION, "1")
    code, out, err = call(home, capsys, "--json")
    told = json.loads(out)
    assert (code, told["outcome"], told["version"]) == (3, "rejected", "2")
    assert "does not beat champion" in told["reasons"][0]
    assert told["figures"]["systems"]["champion"]["ndcg_at_10"] > 0


def test_what_cannot_be_trained_on_is_said_in_a_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(home, capsys, "--to", "2001-01-01T00:00:00Z")
    assert (code, out) == (1, "")
    assert "holds no event with a product" in err


def test_resume_registers_what_is_queued_and_takes_nothing_else(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(home, capsys, "--resume")[:2] == (0, "Nothing was queued.\n")
    code, _, err = call(home, capsys, "--resume", "--from", "-2h")
    assert code == 2
    assert "--resume" in err


def test_an_unknown_request_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(home, capsys, "--request", "nobody-asked")
    assert code == 1
    assert "nobody-asked" in err
