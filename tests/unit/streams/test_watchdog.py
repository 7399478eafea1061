"""A process whose event loop does not run any more is ended, whoever keeps it from running."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import ctypes, logging, time
from streams.watchdog import LoopWatchdog, arm_hard_exit
import streams.watchdog
streams.watchdog.GRACE_S = 0.5
logging.basicConfig()
{setup}
watchdog = LoopWatchdog(0.4)
watchdog.start()
for _ in range(8):
    watchdog.beat()
    time.sleep(0.1)
print("beating", flush=True)
{then}
print("left", flush=True)
"""
HANG = "while True: pass"
NATIVE_HANG = "ctypes.PyDLL(None).sleep(1000)"  # a native call that keeps every other thread of Python from running


def run(then: str, setup: str = "") -> "subprocess.CompletedProcess[str]":
    program = PROGRAM.format(then=then, setup=setup)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_loop_that_runs_is_left_alone_and_one_that_was_stopped_is_not_watched() -> None:
    done = run("watchdog.stop(); time.sleep(1.5)")
    assert (done.returncode, done.stdout) == (0, "beating\nleft\n")


def test_a_loop_that_does_not_run_ends_the_process_and_says_so() -> None:
    done = run(HANG)
    assert (done.returncode, done.stdout) == (1, "beating\n")
    assert "has done nothing at all for 0.4 s" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="a native call that keeps the lock is made with glibc")
def test_native_code_that_lets_no_thread_run_ends_the_process_too() -> None:
    done = run(NATIVE_HANG)
    assert (done.returncode, done.stdout) == (1, "beating\n")
    assert "most recent call first" in done.stderr


def test_a_stop_that_hangs_is_cut_short_with_the_reason_of_the_stop() -> None:
    done = run(HANG, setup='arm_hard_exit(1.2, lambda: "Redis hangs"); LoopWatchdog.start = lambda self: None')
    assert done.returncode == 1
    assert "is cut short (Redis hangs)" in done.stderr
