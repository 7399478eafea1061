"""Gates on the real stack: a broken feed halts its view, only that one, and after a resume nothing is missing."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.worker_process import stop_worker, worker_process
from config.settings import Settings, as_environment
from feature_repo.fence import FenceStore
from feature_repo.gate_store import GateStore
from quality.known_ids import id_hash
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from sinks.lake_reads import table_counts
from sinks.noting import noted
from sinks.quality_tables import GATE_LOG
from streams.observing import GroupLags
from tests.worker_runs import assert_exact, send, tail, traffic, until, wait_committed, wait_ready
from traffic.sent_log import SentLog
from traffic.timed import TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

SHARE = 0.05


def without_category(events: Iterator[TimedEvent]) -> Iterator[TimedEvent]:
    """Leave the category out of one click in twenty."""
    clicks = 0
    for timed in events:
        event = timed.payload
        if isinstance(event, Event) and event.kind == "click":
            clicks += 1
            if clicks % round(1 / SHARE) == 0:
                yield timed._replace(payload=msgspec.structs.replace(event, category_id=None))
                continue
        yield timed


def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, Any]:
    """Run the command as a user does, and return its exit code and its JSON."""
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["gates", *arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout)


def load_tables(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    events: list[TimedEvent],
    is_known: Callable[[str], bool] = lambda _: True,
) -> None:
    """Load the ids of events as a shop does."""
    for kind, name in (("products", "product_id"), ("categories", "category_id"), ("users", "user_id")):
        ids = {getattr(timed.payload, name) for timed in events if isinstance(timed.payload, Event)} - {None}
        file = folder / f"{kind}.csv"
        file.write_text("\n".join([name, *filter(is_known, sorted(ids))]) + "\n")
        for setting, value in as_environment(settings).items():
            monkeypatch.setenv(setting, value)
        result = CliRunner().invoke(app, ["lake", "reference", "load", kind, str(file)])
        assert result.exit_code == 0, result.output


def standing(payload: Any, topic: str, gate: str) -> Any:
    found = next(row for row in payload["topics"] if row["topic"] == topic)
    return next(row for row in found["gates"] if row["gate"] == gate)


def test_a_null_bug_halts_its_view_only_and_after_a_resume_nothing_is_missing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path = tmp_path / "worker.log"
    gates = settings.gates.model_copy(update={"min_count": 200})
    settings = settings.model_copy(update={"gates": gates})
    log, store = SentLog(), GateStore.from_settings(settings)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        send(settings, traffic(3_000, seed=31), log)
        wait_committed(settings, log_path)
        assert store.red_blocking() == []

        send(settings, without_category(iter(traffic(3_000, seed=32))), log)
        until(lambda: bool(store.red_blocking()), "the null bug did not halt the view")
        [halt] = store.red_blocking()
        assert (halt.topic, halt.gate) == (CLICKS_TOPIC, "nulls")
        assert halt.evidence["part"] == "click.category_id"
        assert halt.evidence["examples"]
        # raw rows keep landing, carts go on
        until(lambda: table_counts(settings.lake_path)["raw_events"] == log.acknowledged_count, "raw rows do not land")
        until(
            lambda: not sum(lag.lag_records for lag in GroupLags(settings).read() if lag.tp.topic == CARTS_TOPIC),
            "the carts do not go on",
        )
        fences = FenceStore.from_settings(settings)
        assert all(fence.is_halted for fence in fences.read_blocking(CLICKS_TOPIC).values())
        assert not any(fence.is_halted for fence in fences.read_blocking(CARTS_TOPIC).values())
        assert sum(lag.lag_records for lag in GroupLags(settings).read()) > 0

        until(
            lambda: run(settings, monkeypatch, "status")[1]["topics"][0]["workers"] > 0, "the worker does not publish"
        )
        code, payload = run(settings, monkeypatch, "status")
        assert code == 3
        assert payload["topics"][0]["halt"]["gate"] == "nulls"
        assert standing(payload, CARTS_TOPIC, "references")["status"] == "unknown"  # no table is never green
        assert run(settings, monkeypatch, "explain", "clicks")[1]["next_steps"][-1].startswith("Then accept")
        shown = CliRunner().invoke(app, ["gates", "explain", "clicks"])
        assert shown.exit_code == 0, shown.output
        assert "for example partition" in shown.output

        code, payload = run(settings, monkeypatch, "resume", "clicks", "--reason", "the field is optional")
        assert code == 0
        wait_committed(settings, log_path)
        assert store.red_blocking() == []
        # what comes now is judged anew
        send(settings, traffic(1_000, seed=33), log)
        wait_committed(settings, log_path)
        assert store.red_blocking() == []
        assert stop_worker(process) == 0, tail(log_path)
    store.close_blocking()
    assert_exact(settings, log)
    steps = [(row["topic"], row["step"]) for row in noted(settings.lake_path, GATE_LOG)]
    assert steps == [(CLICKS_TOPIC, "halted"), (CLICKS_TOPIC, "resumed")]


def test_a_gate_without_tables_is_unknown_until_they_are_loaded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path = tmp_path / "worker.log"
    settings = settings.model_copy(update={"gates": settings.gates.model_copy(update={"min_count": 100})})
    events = list(traffic(3_000, seed=35))
    log = SentLog()

    def references() -> str:
        return str(standing(run(settings, monkeypatch, "status")[1], CLICKS_TOPIC, "references")["status"])

    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        send(settings, events[:1_500], log)
        wait_committed(settings, log_path)
        assert references() == "unknown"
        load_tables(settings, monkeypatch, tmp_path, events)
        assert stop_worker(process) == 0, tail(log_path)
    with worker_process(settings, log_path) as process:  # it reads them at once, a running one within half a minute
        wait_ready(settings, process, log_path)
        send(settings, events[1_500:], log)
        wait_committed(settings, log_path)
        until(lambda: references() == "pass", "the gate does not pass with its tables")
        assert stop_worker(process) == 0, tail(log_path)
    assert_exact(settings, log)


def test_ids_that_no_table_has_halt_unless_the_gate_is_overridden(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_path = tmp_path / "worker.log"
    settings = settings.model_copy(update={"gates": settings.gates.model_copy(update={"min_count": 100})})
    events = list(traffic(1_500, seed=34))
    # half of the users are customers that the shop does not know
    load_tables(settings, monkeypatch, tmp_path, events, is_known=lambda text: text[0] != "u" or id_hash(text) % 2 == 1)
    code, payload = run(settings, monkeypatch, "override", "carts", "references", "--reason", "new shop", "--for", "1h")
    assert code == 0
    log, store = SentLog(), GateStore.from_settings(settings)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        send(settings, events, log)
        until(lambda: bool(store.red_blocking(CLICKS_TOPIC)), "unknown ids did not halt the view")
        [halt] = store.red_blocking()
        assert (halt.gate, halt.evidence["part"]) == ("references", "user_id")
        until(
            lambda: not sum(lag.lag_records for lag in GroupLags(settings).read() if lag.tp.topic == CARTS_TOPIC),
            "the carts do not go on",
        )
        until(
            lambda: run(settings, monkeypatch, "status")[1]["topics"][1]["workers"] > 0, "the worker does not publish"
        )
        _, payload = run(settings, monkeypatch, "status")
        assert standing(payload, CARTS_TOPIC, "references")["status"] == "overridden"
        # a restart stays halted
        assert stop_worker(process) == 0, tail(log_path)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        until(lambda: table_counts(settings.lake_path)["raw_events"] == log.acknowledged_count, "raw rows do not land")
        assert [found.topic for found in store.red_blocking()] == [CLICKS_TOPIC]
        assert run(settings, monkeypatch, "resume", CLICKS_TOPIC)[0] == 0
        wait_committed(settings, log_path)
        assert stop_worker(process) == 0, tail(log_path)
    store.close_blocking()
    assert_exact(settings, log)
