"""Stops a test's stack when the test run is gone, however it went: `python tests/stack_guard.py HOME CACHE_DIR`.

It waits for the end of its standard input, which the system closes even when the test run is killed by SIGKILL.
"""

import shutil
import signal
import sys
from pathlib import Path

from stack.embedded import EmbeddedStack


def main(home: Path, cache_dir: Path) -> int:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    if home.exists():
        EmbeddedStack(home, cache_dir).down()
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
