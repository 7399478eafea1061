"""A training on features as they were served: through Feast, from the log of pushed states."""

from pathlib import Path

from schemas.event import Event
from tests.model_homes import QUICK, home_settings
from tests.recorded_lakes import RecordedLake
from tests.registries import store_without_redis
from training.queries import queries_of
from training.run import ACCEPTED, train


def test_a_model_learns_from_what_readers_were_given(tmp_path: Path, registry: Path) -> None:
    settings = home_settings(tmp_path / "home", mode="as_served")
    (tmp_path / "home" / "mlflow").mkdir(parents=True)
    (tmp_path / "home" / "mlflow" / "mlflow.db").write_bytes(registry.read_bytes())
    store_without_redis(settings)
    lake = RecordedLake(settings.lake_path)
    for row in QUICK.rows():
        lake.arrive(Event(**row), at_ms=row["event_time_ms"] + 30)
    lake.write()
    report = train(settings)
    assert report.outcome == ACCEPTED
    assert report.about["figures"]["gains"]["popularity"]["low"] > 0
    assert set(report.about["lineage"]["lake_versions"]) >= {"raw_events", "feature_log"}
    asked = queries_of(Path(report.about["lineage"]["training_set_path"]))
    for each in asked[::40]:
        served = lake.served(each.query.user_id, each.at_ms - 1)
        assert each.query.features["last_products_24h"] == served["last_products_24h"]
        assert each.query.features["page_view_count_30m"] == served["page_view_count_30m"]
