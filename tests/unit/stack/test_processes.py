"""Processes: only our own are found and stopped, and those for certain."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stack.errors import ServiceStartError
from stack.processes import Identity, Launch, exit_code, load_identity, start, stop, tail, with_marker
from tests.waiting import wait_until

SLEEP = "import sys, time; print('ready', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"

Starter = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def begin() -> Iterator[Starter]:
    """Starts a Python that calls itself what it is told, and is ready when this returns."""
    started: list[subprocess.Popen[str]] = []

    def run(name: str, marker: str, code: str = SLEEP) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [name, "-c", code, marker], executable=sys.executable, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def identity_of(process: subprocess.Popen[str], marker: str) -> Identity:
    return Identity(process.pid, psutil.Process(process.pid).create_time(), 0, marker)


def test_a_process_is_known_by_pid_start_time_and_marker(begin: Starter, tmp_path: Path) -> None:
    marker = f"-Dmark={tmp_path}"
    process = begin("java", marker)
    found = identity_of(process, marker)
    assert found.process() is not None
    reused_pid = Identity(process.pid, found.started_s - 60, 0, marker)
    assert reused_pid.process() is None
    other_stack = Identity(process.pid, found.started_s, 0, f"{marker}-other")
    assert other_stack.process() is None


def test_a_pid_without_a_process_is_nobody(tmp_path: Path) -> None:
    assert Identity(2**22 + 1, time.time(), 0, str(tmp_path)).process() is None


def test_servers_are_found_by_marker_without_a_pid_file(begin: Starter, tmp_path: Path) -> None:
    marker = str(tmp_path / "valkey.conf")
    server = begin("valkey-server", marker)
    editor = begin("vim", marker)
    assert [process.pid for process in with_marker(marker)] == [server.pid]
    assert editor.poll() is None


def test_a_stopped_process_is_gone(begin: Starter, tmp_path: Path) -> None:
    process = begin("java", str(tmp_path))
    stop([psutil.Process(process.pid)], patience_s=30)
    assert process.poll() is not None or not psutil.pid_exists(process.pid)
    assert with_marker(str(tmp_path)) == []


def test_a_process_that_ignores_sigterm_is_killed(begin: Starter, tmp_path: Path) -> None:
    process = begin("java", str(tmp_path), STUBBORN)
    stop([psutil.Process(process.pid)], patience_s=0.1)
    assert with_marker(str(tmp_path)) == []


def test_a_suspended_process_is_ended_too(begin: Starter, tmp_path: Path) -> None:
    process = psutil.Process(begin("java", str(tmp_path)).pid)
    process.suspend()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, 30, "the process is not suspended")
    stop([process], patience_s=30)
    assert with_marker(str(tmp_path)) == []


def launch(tmp_path: Path, *arguments: str) -> Launch:
    return Launch("a server", (sys.executable, *arguments), str(tmp_path), tmp_path, tmp_path / "log", {"MARK": "1"})


def test_a_started_process_has_its_own_session_and_only_its_environment(tmp_path: Path) -> None:
    code = "import os; print(sorted(os.environ), os.getsid(0) == os.getpid(), os.getcwd())"
    identity = start(launch(tmp_path, "-E", "-c", code), tmp_path / "pid.json", 7)
    assert wait_until(lambda: exit_code(identity.pid) is not None, 30, "it does not end")
    assert load_identity(tmp_path / "pid.json", str(tmp_path)) == identity
    assert load_identity(tmp_path / "pid.json", "of a copied folder") is None
    assert "True" in tail(tmp_path / "log")
    assert "PATH" not in tail(tmp_path / "log")
    assert str(tmp_path) in tail(tmp_path / "log")


def test_the_exit_code_of_a_started_process_is_told(tmp_path: Path) -> None:
    identity = start(launch(tmp_path, "-c", "raise SystemExit(7)"), tmp_path / "pid.json", 7)
    codes: list[int | None] = []

    def ended() -> bool:
        codes.append(exit_code(identity.pid))
        return codes[-1] is not None

    wait_until(ended, 30, "it does not end")
    assert codes[-1] == 7


def test_a_program_that_is_not_there_is_one_clear_sentence(tmp_path: Path) -> None:
    absent = Launch("Kafka", (str(tmp_path / "java"),), "m", tmp_path, tmp_path / "log", {})
    with pytest.raises(ServiceStartError, match="Kafka cannot be started: No such file"):
        start(absent, tmp_path / "pid.json", 7)
    assert not (tmp_path / "pid.json").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"pid": "x"}', "[]", "null"])
def test_a_broken_pid_file_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "pid.json").write_text(text)
    assert load_identity(tmp_path / "pid.json", "m") is None
