"""Processes of the stack: started apart from the terminal, known by more than a pid, stopped for certain."""

import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from stack.errors import ServiceStartError, ServiceStopError, StackError
from stack.files import write_atomically

_CLOCK_TOLERANCE_S = 2.0
_POLL_S = 0.02
_REPLACING_S = 1.0
_KILL_S = 10.0
_LOG_BYTES_MAX = 10_000_000
_PROGRAMS = {"java", "valkey-server"}


@dataclass(frozen=True)
class Launch:
    """How to start a process.

    Attributes:
        marker: an argument that names this stack's folder; with it a process is recognised as this stack's own.
        environment: the whole environment of the process; nothing of ours is inherited.
    """

    name: str
    arguments: tuple[str, ...]
    marker: str
    folder: Path
    log: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Identity:
    """Who a process is: pids are used again, so its start time and its marker count too.

    Attributes:
        started_s: when it started, seconds since the epoch.
    """

    pid: int
    started_s: float
    port: int
    marker: str

    def process(self) -> psutil.Process | None:
        """Find the process, or None if it ended or its pid is now another's."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_s) <= _CLOCK_TOLERANCE_S and self.marker in _arguments(
                process
            )
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None


def _arguments(process: psutil.Process) -> list[str]:
    """Return its arguments; while it replaces its program, as Java does at its start, it has none for a moment."""
    deadline = time.monotonic() + _REPLACING_S
    while not (arguments := process.cmdline()) and time.monotonic() < deadline:
        if process.status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(_POLL_S)
    return arguments


def load_identity(path: Path, marker: str) -> Identity | None:
    """Read an identity file; None if it is missing, broken, or came here with a copied folder (another marker)."""
    try:
        found = json.loads(path.read_text())
        identity = Identity(int(found["pid"]), float(found["started_s"]), int(found["port"]), str(found["marker"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return identity if identity.marker == marker else None


def start(launch: Launch, identity_file: Path, port: int) -> Identity:
    """Start a process in a session of its own, so that Ctrl-C in the terminal does not reach it, and note who it is.

    It outlives this process; `exit_code` tells whether it has ended while this process lives.

    Raises:
        ServiceStartError: it cannot be started at all.
    """
    try:
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        if launch.log.exists() and launch.log.stat().st_size > _LOG_BYTES_MAX:
            launch.log.replace(launch.log.with_suffix(".old.log"))
        with launch.log.open("ab") as log:
            process = subprocess.Popen(
                launch.arguments,
                cwd=launch.folder,
                env=dict(launch.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise ServiceStartError(
            f"{launch.name} cannot be started: {error.strerror or error}.", hint="Run `shopstream doctor`."
        ) from error
    process.returncode = 0  # it is not ours to wait for: Popen would warn that it still runs
    try:
        started_s = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:  # it has ended; the caller finds that out
        started_s = time.time()
    identity = Identity(process.pid, started_s, port, launch.marker)
    try:
        write_atomically(identity_file, json.dumps(asdict(identity)) + "\n")
    except StackError:
        stop([psutil.Process(process.pid)], 0)
        raise
    return identity


def exit_code(pid: int) -> int | None:
    """Tell with which code a process that this one started has ended; None while it runs."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # its end was noted before
        return None if psutil.pid_exists(pid) else -1
    return os.waitstatus_to_exitcode(status) if ended else None


def with_marker(marker: str) -> list[psutil.Process]:
    """Find this user's living servers that carry the marker as an argument: those whose pid file was lost too."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and _carries(process, marker):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if _alive(process)]


def _carries(process: psutil.Process, marker: str) -> bool:
    """Tell whether it is one of our servers with this marker, and not an editor that has the same file open."""
    arguments = process.cmdline()
    return bool(arguments) and Path(arguments[0]).name in _PROGRAMS and marker in arguments[1:]


def stop(processes: Iterable[psutil.Process], patience_s: float) -> None:
    """End processes: SIGTERM to all, and SIGKILL to those that are still there after `patience_s`.

    Raises:
        ServiceStopError: one survived SIGKILL.
    """
    living = [process for process in processes if _alive(process)]
    for process in living:
        _signal(process, kill=False)
    living = _wait(living, patience_s)
    for process in living:
        _signal(process, kill=True)
    left = _wait(living, _KILL_S)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise ServiceStopError(f"Process {pids} of the stack does not end, not even by SIGKILL.")


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
            process.resume()  # one that was stopped by SIGSTOP could not end otherwise
    except psutil.NoSuchProcess:
        return


def _wait(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + timeout_s
    living = list(processes)
    while living and time.monotonic() < deadline:
        living = [process for process in living if _alive(process)]
        if living:
            time.sleep(_POLL_S)
    return living


def _alive(process: psutil.Process) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            _reap(process.pid)
            return False
        return process.is_running()
    except psutil.NoSuchProcess:
        return False


def _reap(pid: int) -> None:
    """Take note of the end of a child of ours, so that it does not stay a zombie while we live."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def rss_bytes(process: psutil.Process) -> int:
    """Tell its resident memory; 0 if it has just ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a log, empty if there is none."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 16_384))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
