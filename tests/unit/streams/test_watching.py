"""The watch of drift beside a worker: started once there is something to watch, started again, and ended with it."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from config.settings import Settings, load_settings
from sinks.noting import note
from sinks.quality_tables import RETRAINING
from streams.watching import DriftWatch, has_something_to_watch, is_watched
from tests.waiting import wait_until

DEADLINE_S = 60.0
ROOT = Path(__file__).resolve().parents[3]

WATCHES = """
import os, pathlib, sys, time
from streams.watching import until_the_parent_ends, watching_alone
until_the_parent_ends()
home = pathlib.Path(os.environ["SHOPSTREAM_HOME"])
with watching_alone(home) as is_alone:
    with (home / "started").open("a") as file:
        file.write(f"{os.getpid()} {is_alone}\\n")
    time.sleep(1000)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WATCHES
FAILS = WATCHES.replace("time.sleep(1000)", "sys.exit(7)")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"home": tmp_path / "home"})


def make_request(settings: Settings) -> None:
    row = {"request_id": "r", "step": "requested", "cause": "forced", "detail": "", "evidence": "{}", "noted_ms": 1}
    note(settings.lake_path, RETRAINING, [row])


def watch(settings: Settings, program: str = WATCHES) -> DriftWatch:
    command = (sys.executable, "-c", program)
    return DriftWatch(settings, command=command, look_interval_s=0.02, rest_s=0.02)


def started(settings: Settings) -> list[list[str]]:
    file = settings.home / "started"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_is_started_with_the_first_request_and_ends_with_the_worker(settings: Settings) -> None:
    beside = watch(settings)
    beside.start()
    try:
        assert not has_something_to_watch(settings.lake_path)
        assert started(settings) == []
        make_request(settings)
        wait_until(lambda: started(settings), DEADLINE_S, "no watch was started")
        [[pid, is_alone]] = started(settings)
        assert is_alone == "True"
        assert is_watched(settings.home)
        assert os.getsid(int(pid)) != os.getsid(0)  # low priority is of a session
    finally:
        beside.stop()
    assert is_gone(int(pid))
    assert not is_watched(settings.home)


def test_of_two_workers_one_starts_it_and_the_other_when_that_has_ended(settings: Settings) -> None:
    make_request(settings)
    first, second = watch(settings), watch(settings)
    first.start()
    wait_until(lambda: is_watched(settings.home), DEADLINE_S, "no watch was started")
    second.start()
    first.stop()
    wait_until(lambda: len(started(settings)) == 2 and is_watched(settings.home), DEADLINE_S, "the other starts none")
    second.stop()
    assert [is_alone for _, is_alone in started(settings)] == ["True", "True"]


def test_one_that_fails_is_started_again_and_said_to_have_failed(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    make_request(settings)
    beside = watch(settings, FAILS)
    with caplog.at_level(logging.ERROR, "streams.watching"):
        beside.start()
        wait_until(lambda: len(started(settings)) >= 3, DEADLINE_S, "it is not started again")
        beside.stop()
    said = [record.getMessage() for record in caplog.records]
    assert said[:2] == [
        "the watch of drift ended with exit code 7; it is started again in 0.02 s",
        "the watch of drift ended with exit code 7; it is started again in 0.04 s",
    ]


def test_one_that_is_killed_is_started_again(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    make_request(settings)
    beside = watch(settings)
    beside.start()
    wait_until(lambda: started(settings), DEADLINE_S, "no watch was started")
    os.kill(int(started(settings)[0][0]), signal.SIGKILL)
    wait_until(lambda: len(started(settings)) == 2, DEADLINE_S, "it is not started again")
    beside.stop()
    assert "ended by SIGKILL" in caplog.text


def test_one_that_does_not_end_is_killed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.watching.STOP_TIMEOUT_S", 0.3)
    make_request(settings)
    beside = watch(settings, STUBBORN)
    beside.start()
    wait_until(lambda: started(settings), DEADLINE_S, "no watch was started")
    beside.stop()
    assert is_gone(int(started(settings)[0][0]))


def test_it_ends_when_the_worker_is_killed(settings: Settings) -> None:
    make_request(settings)
    worker = textwrap.dedent(
        f"""
        import sys, time
        from config.settings import load_settings
        from streams.watching import DriftWatch
        settings = load_settings({{"home": {str(settings.home)!r}}})
        DriftWatch(settings, command=(sys.executable, "-c", {WATCHES!r}), look_interval_s=0.02).start()
        time.sleep(1000)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", worker], cwd=ROOT)
    try:
        wait_until(lambda: started(settings), DEADLINE_S, "no watch was started")
    finally:
        process.kill()
        process.wait()
    [[pid, _]] = started(settings)
    wait_until(lambda: is_gone(int(pid)), DEADLINE_S, "the watch outlives its worker")


def test_a_watch_that_cannot_be_started_is_said_once(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    make_request(settings)
    beside = DriftWatch(settings, command=("/does/not/exist",), look_interval_s=0.01)
    beside.start()
    wait_until(lambda: "drift is not watched" in caplog.text, DEADLINE_S, "nothing is said")
    beside.stop()
    assert caplog.text.count("drift is not watched") == 1
