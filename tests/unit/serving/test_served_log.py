"""What readers answered, on its way to the lake: the sample, the bound, and a lake that does not take it."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from config.settings import Settings
from features.catalog import DEFINITION_VERSION, VIEWS
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from schemas.privacy import Pseudonyms
from serving.reader import FeatureValue, UserFeatures, ViewFreshness, ViewStatus
from serving.served_log import ServedLog, is_kept
from sinks.served import ServedRow, ServedSink, ServedView, catalog_fingerprint, read_served
from tests.waiting import wait_until

READ_MS = 1_700_000_000_123
DEADLINE_S = 30.0


class Sink:
    """Takes rows while it is open."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.rows: list[ServedRow] = []
        self.tries = 0
        self.may_go_on = threading.Event()
        self.is_open = is_open
        self.may_go_on.set()

    def append(self, rows: Sequence[ServedRow], /) -> None:
        self.tries += 1
        assert self.may_go_on.wait(DEADLINE_S)
        if not self.is_open:
            raise OSError("no room")
        self.rows += rows


def answer(user_id: str, **values: FeatureValue) -> UserFeatures:
    views = {
        VIEWS[CLICKS_TOPIC].view: ViewFreshness(ViewStatus.FRESH, READ_MS - 9, READ_MS - 5, 5, 42, "id:4", 3),
        VIEWS[CARTS_TOPIC].view: ViewFreshness(ViewStatus.MISSING, log_epoch="id:4", partition=1),
    }
    return UserFeatures(user_id, {"page_view_count_5m": 1} | values, READ_MS, clamped=False, views=views)


def opened(
    sink: Sink | ServedSink,
    *,
    share: float = 1.0,
    rows_max: int = 100,
    interval_s: float = 3_600.0,
    pseudonyms: Pseudonyms | None = None,
    registry: CollectorRegistry | None = None,
) -> ServedLog:
    return ServedLog(
        sink,
        reader_id="r1",
        share=share,
        buffer_rows_max=rows_max,
        flush_interval_s=interval_s,
        pseudonyms=pseudonyms,
        registry=registry,
    )


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_the_sample_is_a_share_of_the_users_and_of_the_moments(share: float) -> None:
    of_users = sum(is_kept(f"u{n}", READ_MS, share) for n in range(20_000))
    of_moments = sum(is_kept("u1", READ_MS + n, share) for n in range(20_000))
    for kept in (of_users, of_moments):
        assert abs(kept - 20_000 * share) < 5 * (20_000 * share) ** 0.5
    assert not any(is_kept(f"u{n}", READ_MS, 0.0) for n in range(1_000))
    assert all(is_kept(f"u{n}", READ_MS, 1.0) for n in range(1_000))


def test_the_same_read_is_decided_alike_by_every_reader() -> None:
    users = [f"u{n}" for n in range(1_000)]
    first, second = Sink(), Sink()
    for sink in (first, second):
        log = opened(sink, share=0.1, rows_max=1_000)
        log.offer([answer(user) for user in users], READ_MS, None)
        log.close()
    assert [row.user_id for row in first.rows] == [row.user_id for row in second.rows]
    assert 0 < len(first.rows) < 1_000


def test_a_row_says_all_that_was_answered(tmp_path: Path) -> None:
    log = opened(ServedSink(tmp_path, "r1"))
    given = answer("u1", cart_rate_30m=0.1, click_through_rate_30m=None, last_products_24h=["p1", "é"])
    log.offer([given, answer("u2")], READ_MS, "model-7")
    given.values["page_view_count_5m"] = 99  # whoever asked may do with its answer as it likes
    log.close()

    rows = sorted((row for piece in read_served(tmp_path, 0, 2**62) for row in piece), key=lambda row: row.sequence)
    assert [(row.reader_id, row.sequence, row.user_id) for row in rows] == [("r1", 0, "u1"), ("r1", 1, "u2")]
    first = rows[0]
    assert json.loads(first.values) == {
        "page_view_count_5m": 1,
        "cart_rate_30m": 0.1,
        "click_through_rate_30m": None,
        "last_products_24h": ["p1", "é"],
    }
    assert (first.served_ms, first.as_of_ms, first.model) == (READ_MS, READ_MS, "model-7")
    assert (first.definition_version, first.catalog) == (DEFINITION_VERSION, catalog_fingerprint())
    assert first.views == {
        CLICKS_TOPIC: ServedView("id:4", 3, 42, READ_MS - 5, "FRESH"),
        CARTS_TOPIC: ServedView("id:4", 1, None, None, "MISSING"),
    }
    assert (log.written, log.dropped) == (2, 0)


def test_rows_are_found_by_time_and_user(tmp_path: Path) -> None:
    log = opened(ServedSink(tmp_path, "r1"))
    for n in range(10):
        log.offer([answer(f"u{n % 2}")], READ_MS + n, None)
    log.close()
    found = [row for piece in read_served(tmp_path, READ_MS + 2, READ_MS + 8, users=["u1"]) for row in piece]
    assert sorted(row.served_ms - READ_MS for row in found) == [3, 5, 7]
    assert list(read_served(tmp_path / "nothing", 0, 2**62)) == []


def test_rows_are_written_before_the_log_is_closed() -> None:
    sink = Sink()
    log = opened(sink, interval_s=0.05)
    log.offer([answer("u1")], READ_MS, None)
    wait_until(lambda: log.written == 1, DEADLINE_S, "the row is not written")
    log.close()
    assert len(sink.rows) == 1


def test_a_full_buffer_is_written_before_its_time() -> None:
    sink = Sink()
    log = opened(sink, rows_max=10)
    log.offer([answer(f"u{n}") for n in range(10)], READ_MS, None)
    wait_until(lambda: log.written == 10, DEADLINE_S, "the rows are not written")
    log.close()


def test_what_is_beyond_the_bound_is_dropped_and_counted() -> None:
    sink, registry = Sink(), CollectorRegistry()
    sink.may_go_on.clear()
    log = opened(sink, rows_max=10, interval_s=0.01, registry=registry)
    log.offer([answer("first")], READ_MS, None)
    wait_until(lambda: sink.tries == 1, DEADLINE_S, "nothing is written")
    log.offer([answer(f"u{n}") for n in range(30)], READ_MS, None)  # one of the ten is under way
    assert (log.written, log.dropped) == (0, 21)
    sink.may_go_on.set()
    log.close()
    assert [row.user_id for row in sink.rows] == ["first", *(f"u{n}" for n in range(9))]
    assert [row.sequence for row in sink.rows] == list(range(10))
    assert registry.get_sample_value("shopstream_served_rows_total", {"outcome": "dropped"}) == 21
    assert registry.get_sample_value("shopstream_served_rows_total", {"outcome": "written"}) == 10


def test_a_lake_that_fails_for_a_while_loses_nothing() -> None:
    sink = Sink(is_open=False)
    log = opened(sink, interval_s=0.01)
    log.offer([answer("u1")], READ_MS, None)
    wait_until(lambda: sink.tries >= 2, DEADLINE_S, "it is not tried again")
    log.offer([answer("u2")], READ_MS + 1, None)
    sink.is_open = True
    log.close()
    assert [row.user_id for row in sink.rows] == ["u1", "u2"]
    assert log.dropped == 0


def test_a_lake_that_never_takes_them_costs_the_rows_and_no_read() -> None:
    sink = Sink(is_open=False)
    log = opened(sink)
    log.offer([answer("u1"), answer("u2")], READ_MS, None)
    log.close()
    assert (log.written, log.dropped, sink.tries) == (0, 2, 2)
    log.offer([answer("u3")], READ_MS, None)
    assert log.dropped == 3
    log.close()


def test_ids_are_kept_as_the_stores_hold_them() -> None:
    sink, pseudonyms = Sink(), Pseudonyms(b"0123456789abcdef")
    log = opened(sink, pseudonyms=pseudonyms)
    log.offer([answer("u1")], READ_MS, None)
    log.close()
    assert sink.rows[0].user_id == pseudonyms.of("u1")


def test_a_share_of_nothing_needs_no_log(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    off = settings.model_copy(update={"serving": settings.serving.model_copy(update={"served_share": 0.0})})
    assert ServedLog.from_settings(off) is None
    log = ServedLog.from_settings(settings)
    assert log is not None
    log.close()
    assert not (tmp_path / "lake").exists()
