"""Live, Kafka, the lake and the oracle agree on one log; what is planted in one of them is found, with its event."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import redis
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from cli.demo_check import compare_features
from cli.main import app
from config.settings import Settings, as_environment, load_settings
from feature_repo.layout import KeyTemplate, frame_state, unframe_state, view_fields
from features.apply import fold
from features.catalog import FEATURES, VIEWS
from features.state import read_trailer, with_trailer
from schemas.event import CLICKS_TOPIC, Event
from sinks.tables import RAW_EVENTS
from stack.embedded import Endpoints
from tests.fresh_topics import recreate_topics
from tests.parity.short_run import short_run
from traffic.sent_log import Sent, SentLog

pytestmark = pytest.mark.stack
EVENTS = 1_500


@dataclass(frozen=True)
class Ran:
    """A run that has ended."""

    settings: Settings
    log: SentLog

    def clicks(self, count: int) -> tuple[str, list[tuple[int, Event]]]:
        """Return a user who clicked so often at least, with the log."""
        for user, sent in sorted(self.log.by_user().items()):
            log = [
                (one.offset, one.event) for one in sorted(sent, key=_offset) if one.event and one.topic == CLICKS_TOPIC
            ]
            if len(log) >= count:
                return user, log
        raise AssertionError(f"nobody clicked {count} times")


@pytest.fixture(scope="module")
def ran(stack: Endpoints, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("parity")
    own = uuid.uuid4().hex[:12]
    with pytest.MonkeyPatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("SHOPSTREAM_") and "__" in name]:
            patched.delenv(name)
        settings = load_settings(
            {
                "home": folder / "home",
                "cache_dir": cache_dir,
                "kafka": {"bootstrap_servers": stack.kafka},
                "registry": {"url": stack.registry},
                "redis": {"url": stack.redis},
                "feast": {"project": f"test_{own}"},
                "worker": {"group_id": f"test-{own}"},
                "gates": {"freshness_policy": "off"},
            }
        )
        recreate_topics(settings)
        yield Ran(settings, short_run(settings, folder / "worker.log", EVENTS))


def parity(settings: Settings, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["parity", "--json", *arguments], env=as_environment(settings))
    assert done.exit_code == code, f"{done.stderr}{done.stdout}{done.exception!r}"
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_live_kafka_lake_and_oracle_agree(ran: Ran) -> None:
    report = parity(ran.settings, "--users", "all")
    by_user = ran.log.by_user()
    logs = {(one.topic, user) for user, sent in by_user.items() for one in sent if one.event is not None}
    assert (report["differences"], report["incomplete"], report["failures"]) == (0, [], [])
    assert (report["users"], report["states"]) == (len({user for _, user in logs}), len(logs))
    assert report["values"] == report["users"] * 5 * len(FEATURES)
    assert len({way["hash"] for way in report["ways"].values()}) == 1
    checked, mismatches = compare_features(ran.settings, by_user, 100)
    assert (checked, mismatches) == (100, [])


def test_text_ends_with_the_differences(ran: Ran) -> None:
    done = CliRunner().invoke(
        app, ["parity", "--users", "20", "--as-of", "2030-01-01T00:00:00Z"], env=as_environment(ran.settings)
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "differences 0"
    assert "20 users" in done.stdout


def test_a_state_that_lacks_an_event_is_found_with_the_event(ran: Ran) -> None:
    user, log = ran.clicks(4)
    offset, event = log[-2]
    with planted_state(ran.settings, user, fold(None, [entry for entry in log if entry[0] != offset]).state):
        report = parity(ran.settings, "--users", "all", code=3)
    (found,) = report["first_differing"]
    assert (found["user_id"], found["agreeing"]) == (user, [["live"], ["kafka", "lake"]])
    assert [cause for cause in found["causes"] if event.event_id in cause and "had not been applied" in cause]
    assert [seen["offset"] for seen in found["events"] if seen["is_named"]] == [offset]


def test_a_row_that_the_lake_lost_is_found_with_the_event(ran: Ran, tmp_path: Path) -> None:
    user, log = ran.clicks(4)
    offset, event = log[1]
    lake = copied_lake(ran.settings, tmp_path)
    table = DeltaTable(lake / RAW_EVENTS.name)
    rows = table.to_pyarrow_table()
    lost = pc.and_(pc.equal(rows["event_id"], event.event_id), pc.equal(rows["offset"], offset))
    write_deltalake(table, rows.filter(pc.invert(lost)), mode="overwrite")
    report = parity(with_lake(ran.settings, lake), "--users", "all", code=3)
    (found,) = report["first_differing"]
    assert (found["user_id"], found["agreeing"]) == (user, [["live", "kafka"], ["lake"]])
    (cause,) = found["causes"]
    assert event.event_id in cause
    assert cause.endswith("is in kafka, and not in lake")


def test_a_lake_without_the_files_that_it_needs_is_one_sentence(ran: Ran, tmp_path: Path) -> None:
    lake = copied_lake(ran.settings, tmp_path)
    for path in (lake / RAW_EVENTS.name).rglob("*.parquet"):
        path.unlink()
    done = CliRunner().invoke(app, ["parity", "--users", "5"], env=as_environment(with_lake(ran.settings, lake)))
    assert done.exit_code == 1
    assert str(lake / RAW_EVENTS.name) in str(done.exception)
    assert "\n" not in str(done.exception)


def test_kafka_that_lost_its_beginning_is_told_and_compared_where_it_can_be(ran: Ran) -> None:
    admin = AdminClient({"bootstrap.servers": ran.settings.kafka.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(CLICKS_TOPIC, 0, 100)]).values():
        assert future.result(30).low_watermark == 100
    report = parity(ran.settings, "--users", "all")
    assert (report["differences"], report["failures"]) == (0, [])
    (told,) = report["incomplete"]
    assert told.startswith(f"kafka of {CLICKS_TOPIC}-0 (from offset 100 on) begins too late")
    assert report["ways"]["kafka"]["states"] < report["ways"]["live"]["states"]


@contextmanager
def planted_state(settings: Settings, user: str, state: bytes) -> Iterator[None]:
    """Put a state of clicks into Redis, past the compare-and-set, under the version that is there; then put it back."""
    key = KeyTemplate.of(settings.feast.project).key(user)
    field = view_fields(VIEWS[CLICKS_TOPIC].view).state
    with redis.Redis.from_url(settings.redis.connection_url.get_secret_value()) as client:
        before: Any = client.hget(key, field)
        held = unframe_state(before)
        assert held is not None
        client.hset(key, field, frame_state(with_trailer(state, read_trailer(held))))
        try:
            yield
        finally:
            client.hset(key, field, before)


def copied_lake(settings: Settings, folder: Path) -> Path:
    return Path(shutil.copytree(settings.lake_path, folder / "lake"))


def with_lake(settings: Settings, lake: Path) -> Settings:
    return settings.model_copy(update={"lake": settings.lake.model_copy(update={"path": lake})})


def _offset(sent: Sent) -> int:
    return sent.offset
