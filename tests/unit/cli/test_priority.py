"""A command gives way as a process and, where the system has such, as a session."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cli.priority import giving_way

TOLD = """
import os
from cli.priority import SESSION, giving_way
session = lambda: SESSION.read_text().split()[-1] if SESSION.exists() else "none"
before = session()
nice = os.getpriority(os.PRIO_PROCESS, 0) + 1
with giving_way(nice):
    print(os.getpriority(os.PRIO_PROCESS, 0) == nice, session() in {"none", str(nice)})
print(session() == before)
"""


class Unwritable(type(Path())):  # type: ignore[misc]
    """A file that can be read only, also by root."""

    def write_text(self, *_: object, **__: object) -> int:
        raise PermissionError("not yours")


def test_process_and_session_give_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOLD], start_new_session=True, stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True", "True"]


def test_the_session_is_restored_though_the_command_fails(tmp_path: Path) -> None:
    session = tmp_path / "autogroup"
    session.write_text("/autogroup-25 nice -5\n")
    command = giving_way(0, session)
    command.__enter__()
    assert session.read_text() == "0"
    failure = InterruptedError()
    assert not command.__exit__(type(failure), failure, None)
    assert session.read_text() == "-5"


@pytest.mark.parametrize("told", ["/autogroup-25 nice 0\n", "/autogroup-25 nice 10\n", ""])
def test_a_session_that_gives_way_already_or_is_none_is_left_alone(tmp_path: Path, told: str) -> None:
    session = tmp_path / "autogroup"
    session.write_text(told)
    with giving_way(0, session):
        assert session.read_text() == told


def test_a_session_that_cannot_be_changed_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "autogroup").write_text("/autogroup-25 nice -5\n")
    session = Unwritable(tmp_path / "autogroup")
    with caplog.at_level(logging.WARNING), giving_way(0, session):
        assert "stays as it is: not yours" in caplog.text
