"""Every fault in its full form: `python -m tests.faults [--only GLOB] [--fresh] [--stop] [--list]`, or `make faults`.

The run goes on in the background when this command ends; the same command follows it again. Finished rows are kept
and not run again while the code is the same, unless --fresh. Exit codes: 0 all exact, 1 a row is not, 2 wrong use,
130 no longer followed, or stopped.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Final

from tests.conftest import ROOT
from tests.faults.runner import LOCK, LOG, NOISE, RUN

FOLDER: Final = ROOT / ".shopstream" / "faults"
STOP_DEADLINE_S: Final = 120.0
START_DEADLINE_S: Final = 60.0
POLL_S: Final = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="*", metavar="GLOB", help="run only the scenarios of such names: 'kill.*'")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--stop", action="store_true", help="stop the run that is under way; its rows are kept")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    given = parser.parse_args()
    if given.list:
        return _list()
    if given.stop:
        return _stop()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if _is_running():
        _say(f"A run of {_run_file().get('only', 'everything')!r} is under way; following it.")
    else:
        _start(given.only, fresh=given.fresh)
    try:
        return _follow()
    except KeyboardInterrupt:
        _say("\nThe run goes on. Follow it again: make faults. Stop it: python -m tests.faults --stop")
        return 130


def _list() -> int:
    from tests.faults.catalogue import scenarios

    for scenario in scenarios():
        if scenario.in_full:
            _say(f"{scenario.name:37}{scenario.injects}")
    return 0


def _start(only: str, *, fresh: bool) -> None:
    (FOLDER / RUN).unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "tests.faults.runner",
        str(FOLDER),
        "--only",
        only,
        *(["--fresh"] if fresh else []),
    ]
    with (FOLDER / LOG).open("wb") as log, (FOLDER / NOISE).open("wb") as noise:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=noise, start_new_session=True
        )
    deadline_s = time.monotonic() + START_DEADLINE_S
    while not (FOLDER / RUN).is_file() and process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    process.returncode = 0  # it outlives this command


def _follow() -> int:
    """Print what the run prints until it ends; return its exit code."""
    with (FOLDER / LOG).open() as log:
        while True:
            running = _is_running()  # before reading: what is written until the end is read after it
            for text in iter(log.readline, ""):
                sys.stdout.write(text)
            sys.stdout.flush()
            if not running:
                return _exit_code()
            time.sleep(POLL_S)


def _exit_code() -> int:
    code = _run_file().get("exit_code")
    if code is None:
        _say(f"The run was killed; what is done is kept. See {FOLDER / NOISE}")
        return 1
    return int(code)


def _run_file() -> dict[str, Any]:
    try:
        return json.loads((FOLDER / RUN).read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError):  # just being written, or killed before that
        return {}


def _is_running() -> bool:
    """Tell whether somebody holds the lock."""
    with (FOLDER / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _stop() -> int:
    if not (FOLDER / LOCK).is_file() or not _is_running():
        _say("No run is under way.")
        return 0
    pid = int(_run_file()["pid"])
    os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_DEADLINE_S
    while _is_running():
        if time.monotonic() > deadline_s:
            _say(f"Process {pid} does not end.")
            return 1
        time.sleep(POLL_S)
    _say("Stopped; its rows are kept.")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
