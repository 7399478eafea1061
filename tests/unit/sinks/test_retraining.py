"""Requests for retrainings: asked for once, one under way at a time, never lost and never two, whoever dies."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from config.settings import load_settings
from sinks.errors import (
    OutboxError,
    RetrainingNotDueError,
    RetrainingRunningError,
    RetrainingUnknownError,
)
from sinks.noting import noted
from sinks.outbox import Delivery, FlushCounts, Outbox
from sinks.quality_tables import RETRAINING
from sinks.retraining import Retraining, Step

ROOT = Path(__file__).resolve().parents[3]
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW_MS = 1_717_747_750_123
START_MS = 1_717_700_400_000  # of the window that gives cause, unless a test says otherwise


class Shop:
    """Requests over a lake and an outbox on disk, with a clock that a test sets."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.lake = folder / "lake"
        self.now_ms = NOW_MS
        self.sent: list[Delivery] = []
        kinds = ("kafka", "webhook", "airflow")
        self.outbox = Outbox(self.home / "outbox", dict.fromkeys(kinds, self.sent.append))
        self.retraining = self.opened()

    def opened(self, outbox: Outbox | None = None) -> Retraining:
        return Retraining(
            self.home, self.lake, outbox or self.outbox,
            cooldown_ms=DAY_MS, give_up_ms=6 * HOUR_MS, clock_ms=lambda: self.now_ms,
        )  # fmt: skip

    def request(self, start_ms: int = START_MS, **changes: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "cause": "drift",
            "window_start_ms": start_ms,
            "window_end_ms": start_ms + HOUR_MS,
            "detail": "categories moved for 3 windows",
            "evidence": {"scores": {"category_id": 0.3}, "lake_versions": {"raw_events": 7}},
        }
        return self.retraining.request(**{**given, **changes})

    def steps(self) -> list[str]:
        return [row["step"] for row in noted(self.lake, RETRAINING)]

    def requested(self, start_ms: int = START_MS, **changes: Any) -> str:
        answer = self.request(start_ms, **changes)
        assert answer["outcome"] == "requested", answer
        return str(answer["request_id"])

    def end(self, request_id: str, step: str = "promoted") -> None:
        self.retraining.note(request_id, step, "done", {})


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_request_is_a_row_and_one_delivery_for_each_receiver(shop: Shop) -> None:
    answer = shop.request()
    assert answer["outcome"] == "requested"
    (row,) = noted(shop.lake, RETRAINING)
    assert {name: row[name] for name in ("request_id", "step", "cause", "window_start_ms", "window_end_ms")} == {
        "request_id": answer["request_id"],
        "step": "requested",
        "cause": "drift",
        "window_start_ms": START_MS,
        "window_end_ms": START_MS + HOUR_MS,
    }
    assert shop.outbox.flush() == FlushCounts(delivered=3)
    assert {delivery.id for delivery in shop.sent} == {answer["request_id"]}
    by_kind = {delivery.kind: delivery.payload for delivery in shop.sent}
    event = {
        "request_id": answer["request_id"],
        "cause": "drift",
        "window_start_ms": START_MS,
        "window_end_ms": START_MS + HOUR_MS,
        "detail": "categories moved for 3 windows",
        "evidence": {"scores": {"category_id": 0.3}},
        "lake_versions": {"raw_events": 7},
        "requested_ms": NOW_MS,
    }
    assert by_kind["kafka"] == by_kind["airflow"] == event
    assert by_kind["webhook"] == {
        "type": "retraining.requested",
        "timestamp": "2024-06-07T08:09:10.123Z",
        "data": event,
    }


def test_the_same_window_is_asked_for_once(shop: Shop) -> None:
    first = shop.request()
    again = shop.request(detail="other words", evidence={})
    assert (again["request_id"], again["outcome"]) == (first["request_id"], "known")
    assert "requested already: categories moved" in again["why"]
    assert shop.steps() == ["requested"]
    assert len(shop.outbox.waiting()) == 3


def test_a_trigger_that_is_replayed_after_all_is_done_changes_nothing(shop: Shop) -> None:
    request_id = shop.requested()
    shop.outbox.flush()
    shop.end(request_id, "rejected")
    shop.now_ms += 40 * DAY_MS
    assert shop.request()["outcome"] == "known"
    assert shop.opened().deliver() == 0
    assert shop.outbox.waiting() == []


def test_ids_follow_from_cause_and_window_only(shop: Shop, tmp_path: Path) -> None:
    other = Shop(tmp_path / "other")
    other.now_ms += DAY_MS
    assert shop.requested() == other.requested(detail="x", evidence={})
    assert shop.request(cause="online_quality")["request_id"] != shop.request()["request_id"]
    assert shop.request(START_MS + 1)["request_id"] != shop.request()["request_id"]


def test_one_is_under_way_at_a_time(shop: Shop) -> None:
    first = shop.requested()
    for step in ("requested", "started", "validated", "canary"):
        if step != "requested":
            shop.retraining.note(first, step, "so far", {})
        found = shop.retraining.in_flight()
        assert found is not None
        assert (found.request_id, found.step) == (first, step)
        answer = shop.request(START_MS + 30 * DAY_MS + len(shop.steps()))
        assert answer["outcome"] == "suppressed"
        assert f"{first} is under way ({step}" in answer["why"]
    assert shop.request(START_MS + 31 * DAY_MS, cause="online_quality")["outcome"] == "suppressed"


@pytest.mark.parametrize("end", ["promoted", "rejected", "rolled_back", "failed"])
def test_after_its_end_another_may_follow(shop: Shop, end: str) -> None:
    shop.end(shop.requested(), end)
    assert shop.retraining.in_flight() is None
    assert shop.request(START_MS + 2 * DAY_MS)["outcome"] == "requested"


def test_a_suppressed_window_stays_so_when_it_is_asked_for_again(shop: Shop) -> None:
    shop.request(red=["gate nulls of shop.clicks.v1 is red"])
    again = shop.request()
    assert again["outcome"] == "known"
    assert "suppressed already" in again["why"]
    assert shop.steps() == ["suppressed"]
    assert shop.outbox.waiting() == []


def test_nothing_is_requested_while_a_gate_is_red(shop: Shop) -> None:
    answer = shop.request(red=["gate nulls of shop.clicks.v1 is red", "gate schema of shop.carts.v1 is red"])
    assert answer["outcome"] == "suppressed"
    assert "gate nulls of shop.clicks.v1 is red; gate schema" in answer["why"]
    (row,) = noted(shop.lake, RETRAINING)
    assert row["step"] == "suppressed"
    assert row["detail"].startswith("categories moved for 3 windows; not requested, since gate nulls")
    assert shop.outbox.waiting() == []


def test_the_cooldown_is_event_time_and_of_one_cause(shop: Shop) -> None:
    shop.end(shop.requested())
    shop.now_ms += 365 * DAY_MS  # wall time does not count
    almost = shop.request(START_MS + DAY_MS - 1)
    assert almost["outcome"] == "suppressed"
    assert "within the cooldown" in almost["why"]
    assert shop.request(START_MS - 5 * DAY_MS)["outcome"] == "suppressed"  # a window of the past
    shop.end(shop.requested(START_MS + DAY_MS - 1, cause="online_quality"))
    assert shop.request(START_MS + DAY_MS)["outcome"] == "requested"


def test_what_was_suppressed_begins_no_cooldown(shop: Shop) -> None:
    shop.request(red=["red"])
    assert shop.request(START_MS + HOUR_MS)["outcome"] == "requested"


def test_a_silence_ends_by_itself_or_is_ended(shop: Shop) -> None:
    shop.retraining.silence(NOW_MS + HOUR_MS, "a sale that we know of")
    assert shop.retraining.silenced_until_ms() == NOW_MS + HOUR_MS
    assert "silenced until 2024-06-07 09:09:10 UTC" in shop.request()["why"]
    shop.now_ms += HOUR_MS
    assert shop.retraining.silenced_until_ms() is None
    shop.retraining.silence(shop.now_ms + DAY_MS, "longer")
    shop.retraining.silence(shop.now_ms, "no longer")
    assert shop.retraining.silenced_until_ms() is None
    assert shop.request(START_MS + 1)["outcome"] == "requested"
    assert [request.step for request in shop.retraining.newest()] == [Step.SUPPRESSED, Step.REQUESTED]


def test_force_asks_in_spite_of_cooldown_and_silence(shop: Shop) -> None:
    shop.end(shop.requested())
    shop.retraining.silence(NOW_MS + HOUR_MS, "quiet")
    answer = shop.retraining.force(reason="a new season", now_ms=5)
    assert answer["outcome"] == "requested"
    assert shop.retraining.force(reason="a new season", now_ms=5)["outcome"] == "known"
    assert "under way" in shop.retraining.force(reason="and again", now_ms=6)["why"]
    request = shop.retraining.newest()[-2]
    assert (request.cause, request.window_start_ms, request.detail) == ("forced", None, "a new season")


def test_force_gives_way_to_red_gates(shop: Shop) -> None:
    assert shop.retraining.force(reason="now", red=["gate nulls is red"])["outcome"] == "suppressed"


def test_a_forced_request_begins_no_cooldown_of_drift(shop: Shop) -> None:
    shop.end(str(shop.retraining.force(reason="now")["request_id"]))
    assert shop.request()["outcome"] == "requested"


def test_one_that_nothing_follows_is_given_up(shop: Shop) -> None:
    first = shop.requested()
    shop.retraining.note(first, "started", "by somebody", {})
    shop.now_ms += 7 * HOUR_MS
    assert shop.retraining.in_flight() is None
    second = shop.requested(START_MS + 2 * DAY_MS)
    by_id = {request.request_id: request for request in shop.retraining.newest()}
    assert by_id[first].step is Step.FAILED
    assert "given up: nothing followed started" in by_id[first].detail
    assert by_id[second].step is Step.REQUESTED


@pytest.mark.parametrize("wrong_ms", [-365 * DAY_MS, 365 * DAY_MS])
def test_a_step_that_a_wrong_clock_has_noted_does_not_block_for_ever(shop: Shop, wrong_ms: int) -> None:
    shop.now_ms += wrong_ms
    shop.requested()
    shop.now_ms = NOW_MS
    assert shop.retraining.in_flight() is None
    assert shop.request(START_MS + 2 * DAY_MS)["outcome"] == "requested"


def test_the_newest_step_is_the_newest_whatever_the_clock_says(shop: Shop) -> None:
    request_id = shop.requested()
    shop.now_ms -= HOUR_MS
    for step in ("started", "validated", "rejected"):
        shop.retraining.note(request_id, step, step, {"n": 1})
    assert shop.steps() == ["requested", "started", "validated", "rejected"]
    (found,) = shop.retraining.newest()
    assert (found.step, found.detail, found.evidence) == (Step.REJECTED, "rejected", {"n": 1})
    assert found.requested_ms == NOW_MS


def test_only_what_is_known_can_be_noted_or_claimed(shop: Shop) -> None:
    with pytest.raises(RetrainingUnknownError, match="no request 'nothing'"):
        shop.retraining.note("nothing", "started", "", {})
    with pytest.raises(RetrainingUnknownError), shop.retraining.claim("../../etc"):
        pass
    with pytest.raises(ValueError, match="tidied"):
        shop.retraining.note(shop.requested(), "tidied", "", {})


class TestClaims:
    def test_a_claim_notes_that_it_is_started(self, shop: Shop) -> None:
        request_id = shop.requested()
        with shop.retraining.claim(request_id) as claimed:
            assert (claimed.step, claimed.cause, claimed.window_end_ms) == (Step.STARTED, "drift", START_MS + HOUR_MS)
            assert claimed.evidence["lake_versions"] == {"raw_events": 7}
            assert shop.steps() == ["requested", "started"]

    def test_two_cannot_hold_one(self, shop: Shop) -> None:
        request_id = shop.requested()
        with shop.retraining.claim(request_id):
            with pytest.raises(RetrainingRunningError), shop.opened().claim(request_id):
                pass
            assert shop.steps() == ["requested", "started"]
        with shop.opened().claim(request_id):
            assert shop.steps() == ["requested", "started", "started"]

    def test_whoever_is_killed_holds_it_no_longer(self, shop: Shop, tmp_path: Path) -> None:
        request_id = shop.requested()
        with other_process(CLAIM, tmp_path, request_id) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "claimed\n"
            with pytest.raises(RetrainingRunningError), shop.retraining.claim(request_id):
                pass
            process.kill()
            process.communicate()
        with shop.retraining.claim(request_id) as claimed:
            assert claimed.step is Step.STARTED

    def test_one_that_is_held_is_not_given_up(self, shop: Shop) -> None:
        request_id = shop.requested()
        with shop.retraining.claim(request_id):
            shop.now_ms += 7 * HOUR_MS
            assert shop.retraining.in_flight() is not None
            assert shop.request(START_MS + 2 * DAY_MS)["outcome"] == "suppressed"
        assert shop.retraining.in_flight() is None

    @pytest.mark.parametrize("step", ["validated", "canary", "promoted", "rejected", "rolled_back"])
    def test_what_has_been_run_is_not_run_again(self, shop: Shop, step: str) -> None:
        request_id = shop.requested()
        shop.retraining.note(request_id, step, "said the verdict", {})
        with pytest.raises(RetrainingNotDueError, match=f"it is {step}"), shop.retraining.claim(request_id):
            pass
        assert shop.steps() == ["requested", step]

    def test_what_was_suppressed_is_not_run(self, shop: Shop) -> None:
        request_id = str(shop.request(red=["red"])["request_id"])
        with pytest.raises(RetrainingNotDueError), shop.retraining.claim(request_id):
            pass

    def test_a_failed_one_may_be_run_again_unless_another_is_under_way(self, shop: Shop) -> None:
        first = shop.requested()
        shop.end(first, "failed")
        with shop.retraining.claim(first):
            pass
        shop.end(first, "failed")
        shop.requested(START_MS + 2 * DAY_MS)
        with pytest.raises(RetrainingNotDueError, match="was given up, and"), shop.retraining.claim(first):
            pass


# each begins with the requests of the first argument, as `Shop` has them
OPEN = f"""
import os, signal, sys
from pathlib import Path
from sinks.outbox import Outbox
from sinks.retraining import Retraining

class DyingOutbox(Outbox):
    def put(self, delivery):
        if delivery.kind == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().put(delivery)

folder = Path(sys.argv[1])
outbox = DyingOutbox(folder / "home" / "outbox", dict.fromkeys(("kafka", "webhook", "airflow"), print))
retraining = Retraining(
    folder / "home", folder / "lake", outbox,
    cooldown_ms={DAY_MS}, give_up_ms={6 * HOUR_MS}, clock_ms=lambda: {NOW_MS},
)
"""
CLAIM = (
    OPEN
    + """
with retraining.claim(sys.argv[2]):
    print("claimed", flush=True)
    sys.stdin.readline()
"""
)
REQUEST = (
    OPEN
    + f"""
retraining.request(
    cause="drift", window_start_ms={START_MS}, window_end_ms={START_MS + HOUR_MS},
    detail="categories moved for 3 windows", evidence={{"lake_versions": {{"raw_events": 7}}}},
)
"""
)


def other_process(script: str, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder), *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


class Killed(BaseException):
    """Nothing of ours runs any more."""


class DyingOutbox(Outbox):
    """An outbox whose process dies before a delivery of one kind is put."""

    def __init__(self, shop: Shop, kind: str) -> None:
        super().__init__(shop.outbox.folder, dict.fromkeys(shop.outbox.kinds, shop.sent.append))
        self._kind = kind

    def put(self, delivery: Delivery) -> bool:
        if delivery.kind == self._kind:
            raise Killed
        return super().put(delivery)


class TestKilled:
    @pytest.mark.parametrize("kind", ["kafka", "webhook", "airflow"])
    @pytest.mark.parametrize("how", ["asked again", "opened", "claimed"])
    def test_between_row_and_outbox_nothing_is_lost_or_doubled(self, shop: Shop, kind: str, how: str) -> None:
        shop.retraining = shop.opened(DyingOutbox(shop, kind))
        with pytest.raises(Killed):
            shop.request()
        shop.retraining = shop.opened()
        assert shop.steps() == ["requested"]
        assert kind not in {delivery.kind for delivery in shop.outbox.waiting()}
        (found,) = shop.retraining.newest()
        if how == "asked again":
            assert shop.request()["outcome"] == "known"
        elif how == "opened":
            assert shop.retraining.deliver() > 0
        else:
            with shop.retraining.claim(found.request_id):
                pass
        assert shop.outbox.flush() == FlushCounts(delivered=3)
        assert sorted(delivery.kind for delivery in shop.sent) == ["airflow", "kafka", "webhook"]
        assert {delivery.id for delivery in shop.sent} == {found.request_id}
        assert shop.opened().deliver() == 0
        assert shop.steps().count("requested") == 1

    def test_a_process_that_is_killed_keeps_nobody_waiting(self, shop: Shop, tmp_path: Path) -> None:
        with other_process(REQUEST, tmp_path, "kafka") as process:
            process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        assert shop.request()["outcome"] == "known"
        assert shop.outbox.flush() == FlushCounts(delivered=3)

    def test_one_that_is_too_old_to_be_run_is_not_delivered_late(self, shop: Shop) -> None:
        shop.retraining = shop.opened(DyingOutbox(shop, "kafka"))
        with pytest.raises(Killed):
            shop.request()
        shop.retraining = shop.opened()
        shop.now_ms += 6 * HOUR_MS
        assert shop.retraining.deliver() == 0
        assert shop.request(START_MS + 2 * DAY_MS)["outcome"] == "requested"
        assert [request.step for request in shop.retraining.newest()] == [Step.FAILED, Step.REQUESTED]


def test_of_several_that_ask_at_once_one_gets_a_request(shop: Shop) -> None:
    start = threading.Barrier(4)

    def ask(number: int) -> str:
        start.wait()  # each opens the lock for itself, as a process would
        return str(shop.opened().force(reason=f"reason {number}", now_ms=number)["outcome"])

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert sorted(answers) == ["requested", "suppressed", "suppressed", "suppressed"]
    assert sorted(shop.steps()) == sorted(answers)


def test_an_outbox_that_cannot_be_written_leaves_the_row_and_is_made_up_for(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broken = Outbox(tmp_path / "file", {"kafka": shop.sent.append})
    with pytest.raises(OutboxError):
        shop.opened(broken).force(reason="now", now_ms=1)
    assert shop.steps() == ["requested"]
    assert shop.opened().deliver() == 3
    assert shop.opened().deliver() == 0


def test_evidence_that_is_no_json_is_refused_before_anything_is_written(shop: Shop) -> None:
    with pytest.raises(ValueError, match="JSON"):
        shop.request(evidence={"psi": float("nan")})
    assert shop.steps() == []


def test_a_deployment_delivers_to_what_is_set(tmp_path: Path) -> None:
    home = {"home": tmp_path / "home"}
    assert Retraining.from_settings(load_settings(home)).newest() == []
    assert not (tmp_path / "home").exists()
    given = {
        **home,
        "alerts": {"webhook_url": "https://example.com/", "webhook_secret": "whsec_" + "A" * 32},
        "airflow": {"url": "http://127.0.0.1:1"},
    }
    settings = load_settings(given)
    Retraining.from_settings(settings).force(reason="now")
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "home" / "outbox").glob("*.json"))
    assert names == ["airflow", "kafka", "webhook"]
