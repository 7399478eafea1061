"""Dead letters on the real stack: what producers spoiled comes back, once, and the features are right after all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from cli.demo_check import compare_features, compare_states
from cli.main import run
from cli.worker_process import worker_process
from config.settings import Settings, as_environment
from schemas.event import CLICKS_TOPIC, Event
from schemas.producer import EventProducer
from sinks.redrives import RedriveLog
from tests.redrive_runs import LateSchema, Spoiled, redriven_headers, send_spoiled
from tests.worker_runs import tail, wait_committed, wait_ready
from traffic.simulator import Simulator, SimulatorConfig
from traffic.timed import TimedEvent

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("topics")]

ROOT = Path(__file__).resolve().parents[2]
KILLED_BEFORE_IT_NOTES = """
import os, signal
from config.settings import load_settings
from replay.dead_letter_selection import RedriveOptions
from replay.redrive_run import redrive

class Killing:
    def __init__(self, events): self.ends, self.find, self.real = events.ends, events.find, events
    def publish(self, records):
        self.real.publish(records)
        os.kill(os.getpid(), signal.SIGKILL)

redrive(load_settings(), RedriveOptions(), rebuild=True, patience_s=60, progress=print, through=Killing)
"""


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.fixture
def forgetful(settings: Settings) -> Settings:
    """Settings with which a worker asks again after a second for a schema that was unknown."""
    return settings.model_copy(update={"registry": settings.registry.model_copy(update={"unknown_id_ttl_s": 1.0})})


def traffic(count: int, *, late: float = 0.0, seed: int = 1) -> Iterable[TimedEvent]:
    config = SimulatorConfig(
        seed=seed,
        start_ms=time.time_ns() // 1_000_000 - 60_000,
        rate=500.0,
        users=500,
        late_share=late,
        disorder_share=0.0,
        duplicate_share=0.02,
    )
    return Simulator(config, count).events()


def shopstream(settings: Settings, *arguments: str) -> tuple[int, Any, str]:
    """Call the command; return its exit code, what it says as JSON, and what it tells people."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        for name, value in as_environment(settings).items():
            patched.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            run(["dlq", *arguments, "--json"])
    code = ended.value.code
    assert isinstance(code, int)
    return code, json.loads(out.getvalue()) if out.getvalue() else None, err.getvalue()


def redriven(settings: Settings, *arguments: str) -> Any:
    code, report, said = shopstream(settings, "redrive", *arguments)
    assert code == 0, said
    return report


def verdicts(report: Any) -> dict[tuple[str, str], int]:
    return {(row["reason"], row["verdict"]): row["letters"] for row in report["verdicts"]}


def assert_corrected(settings: Settings, log: Spoiled) -> None:
    users = log.as_corrected()
    checked, mismatches = compare_features(settings, users, len(users))
    assert mismatches == []
    assert checked == len(users)
    agreement = compare_states(settings)
    assert (agreement.differing, agreement.examples) == (0, ())


def test_what_producers_spoiled_comes_back(forgetful: Settings, log_path: Path) -> None:
    settings = forgetful
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        schema = LateSchema.announced(settings)
        log = send_spoiled(settings, traffic(6_000), schema, share=0.01)
        wait_committed(settings, log_path)
        code, listed, said = shopstream(settings, "list", "--limit", "1000")
        assert code == 0, said
        by_reason = listed["by_reason"]
        assert set(by_reason) == {"misrouted", "unknown_schema"}
        positions = {(row["topic"], row["partition"], row["offset"]) for row in listed["shown"]}
        assert positions == log.spoiled

        expected = {("misrouted", "redrive"): by_reason["misrouted"]}
        expected |= {("unknown_schema", "unreadable"): by_reason["unknown_schema"]}
        dry = redriven(settings, "--dry-run")
        assert (verdicts(dry), dry["published"], list(redriven_headers(settings))) == (expected, 0, [])
        first = redriven(settings)
        assert (verdicts(first), first["published"]) == (expected, by_reason["misrouted"])
        assert first["rebuilt"]["failed_again"] == 0

        schema.register(settings)
        second = redriven(settings)
        assert second["published"] == by_reason["unknown_schema"]
        assert second["rebuilt"]["failed_again"] == 0
        assert_corrected(settings, log)

        third = redriven(settings)
        assert (third["published"], third["rebuilt"]["users_rebuilt"]) == (0, {})
        assert max(Counter(redriven_headers(settings)).values()) == 1
        assert shopstream(settings, "list", "--fate", "all")[1]["by_fate"] == {"redriven": len(log.spoiled)}
        assert process.poll() is None, tail(log_path)


def test_a_redrive_that_is_killed_is_finished_by_the_next_one(forgetful: Settings, log_path: Path) -> None:
    settings = forgetful
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        schema = LateSchema.announced(settings)
        schema.register(settings)  # so all can be read at once, but for their routing
        log = send_spoiled(settings, traffic(3_000, late=0.05, seed=2), schema, share=0.02)
        wait_committed(settings, log_path)
        log.spoiled &= {
            (row["topic"], row["partition"], row["offset"])
            for row in shopstream(settings, "list", "--limit", "1000")[1]["shown"]
        }
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_BEFORE_IT_NOTES],
            cwd=ROOT,
            env={**os.environ, **as_environment(settings), "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        assert len(list(redriven_headers(settings))) == len(log.spoiled) > 0

        with RedriveLog(settings.lake_path):
            code, _, said = shopstream(settings, "redrive")
        assert (code, said.strip().splitlines()[-1][:40]) == (1, "shopstream: Another redrive of this lake")
        report = redriven(settings)
        assert (report["recovered"], report["published"]) == (len(log.spoiled), 0)
        assert Counter(redriven_headers(settings)).most_common(1)[0][1] == 1
        assert_corrected(settings, log)
        assert process.poll() is None, tail(log_path)


def test_without_a_worker_it_says_so_and_a_later_one_ends_it(settings: Settings, log_path: Path) -> None:
    schema = LateSchema.announced(settings)
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        log = send_spoiled(settings, traffic(500, seed=3), schema, share=0.0)
        with EventProducer(settings) as producer:
            event = Event(event_id="one", kind="click", user_id="u1", event_time_ms=time.time_ns() // 1_000_000)
            producer.send_raw(CLICKS_TOPIC, b"someone", producer.encode(CLICKS_TOPIC, event))
        wait_committed(settings, log_path)
    code, _, said = shopstream(settings, "redrive", "--patience", "1")
    assert code == 1
    assert "run `shopstream dlq redrive` again" in " ".join(said.split())
    with worker_process(settings, log_path) as process:
        wait_ready(settings, process, log_path)
        report = redriven(settings)
    assert (report["published"], report["rebuilt"]["users_rebuilt"]) == (0, {CLICKS_TOPIC: 1})
    assert compare_states(settings).differing == 0
    assert log.spoiled == set()


def test_a_letter_that_fails_again_keeps_its_history(settings: Settings, log_path: Path) -> None:
    strict = settings.model_copy(update={"events": settings.events.model_copy(update={"message_bytes_max": 1_000})})
    with worker_process(strict, log_path) as process:
        wait_ready(settings, process, log_path)
        schema = LateSchema.announced(settings)
        send_spoiled(settings, traffic(100, seed=4), schema, share=0.0)
        with EventProducer(settings) as producer:
            event = Event(
                event_id="long",
                kind="search",
                user_id="u1",
                event_time_ms=time.time_ns() // 1_000_000,
                query="x" * 2_000,
            )
            producer.send(CLICKS_TOPIC, event)
        wait_committed(settings, log_path)
        (original,) = shopstream(settings, "list")[1]["shown"]
        assert redriven(settings)["rebuilt"]["failed_again"] == 1  # these settings would read it, the worker's do not

        (again,) = shopstream(settings, "list")[1]["shown"]
        assert (again["redriven_before"], again["offset"] != original["offset"]) == (1, True)
        stays = redriven(settings, "--attempts-max", "1")
        assert (stays["published"], verdicts(stays)) == (
            0,
            {("too_large", "attempts_max"): 1, ("too_large", "failed_again"): 1},
        )
        named = redriven(settings, again["position"], "--attempts-max", "1")
        assert (named["published"], named["rebuilt"]["failed_again"]) == (1, 1)

        (third,) = shopstream(settings, "list")[1]["shown"]
        code, shown, _ = shopstream(settings, "show", *third["position"].split("/"))
        assert code == 0
        assert [row["letter"] for row in shown["history"]] == [original["position"], again["position"]]
        assert shown["decoded"]["fields"]["query"] == "x" * 2_000
        assert process.poll() is None, tail(log_path)
