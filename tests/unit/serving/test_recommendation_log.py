"""Answers on their way to the lake: all of them, once, as they were given."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from config.privacy import PrivacySettings
from config.settings import Settings
from schemas.privacy import Pseudonyms
from serving.models_in_service import CANARY
from serving.recommendation_log import (
    NumberedAnswer,
    RecommendationLog,
    RecommendationSink,
    recommendation_id,
    stored_id_of,
)
from sinks.errors import LakeUnavailableError
from sinks.noting import noted
from sinks.quality_tables import RECOMMENDATIONS
from tests.unit.serving.answers import NOON_MS, answer


def test_a_row_says_all_that_is_known_of_an_answer(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    sink = RecommendationSink(tmp_path, "w1")
    log = RecommendationLog(sink, buffer_rows_max=10, flush_interval_s=3_600.0, registry=registry)
    log.offer([answer("r1", "u1", role=CANARY, model="2", error="ValueError"), answer("r2", "u1", seconds=0.25)])
    log.close()
    first, second = noted(tmp_path, RECOMMENDATIONS)
    assert first.pop("served_date").isoformat() == "2023-11-14"
    assert first == {
        "recommendation_id": "r1",
        "user_id": "u1",
        "model": "2",
        "role": "canary",
        "product_ids": [],
        "as_of_ms": NOON_MS,
        "seconds": 0.001,
        "error": "ValueError",
        "served_ms": NOON_MS,
    }
    assert (second["recommendation_id"], second["product_ids"], second["error"]) == ("r2", ["p1", "p2"], None)
    assert (second["seconds"], log.written, log.dropped) == (0.25, 2, 0)
    assert registry.get_sample_value("shopstream_recommendation_rows_total", {"outcome": "written"}) == 2


def test_rows_that_are_offered_again_are_left_out_and_logs_do_not_disturb_each_other(tmp_path: Path) -> None:
    first, second = RecommendationSink(tmp_path, "w1"), RecommendationSink(tmp_path, "w2")
    rows = [NumberedAnswer(n, answer(f"r{n}", "u1")) for n in range(4)]
    first.append(rows[:2])
    first.append(rows[:2])
    first.append(rows)
    second.append([NumberedAnswer(0, answer("other", "u2"))])
    found = [row["recommendation_id"] for row in noted(tmp_path, RECOMMENDATIONS)]
    assert sorted(found) == ["other", "r0", "r1", "r2", "r3"]


def test_a_lake_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / RECOMMENDATIONS.name).write_text("no folder")
    with pytest.raises(LakeUnavailableError):
        RecommendationSink(tmp_path, "w1").append([NumberedAnswer(0, answer("r1", "u1"))])


def test_ids_name_the_version_and_fit_into_an_event() -> None:
    assert recommendation_id("7").startswith("r-7-")
    assert len(recommendation_id("v" * 200).encode()) <= 64
    assert recommendation_id("7") != recommendation_id("7")


def test_users_are_stored_as_the_settings_say(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert stored_id_of(settings)("u1") == "u1"
    key = "0123456789abcdef"
    hashed = Settings(home=tmp_path, privacy=PrivacySettings(pseudonymise=True, key=SecretStr(key)))
    assert stored_id_of(hashed)("u1") == Pseudonyms(key.encode()).of("u1")
