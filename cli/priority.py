"""How far a command gives way to other processes of the machine.

Linux may share the processor out by session, that is by terminal or service, and then a nice value counts only within
its session (sched(7), "The autogroup feature"). A worker is a session of its own, so the command's must give way, too.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

GIVES_WAY: Final = 10
SESSION: Final = Path("/proc/self/autogroup")

logger = logging.getLogger(__name__)

NiceOption = Annotated[
    int, typer.Option("--nice", min=0, max=19, help="How far to give way to other processes; 19 is furthest.")
]


@contextmanager
def giving_way(nice: int, session: Path = SESSION) -> Iterator[None]:
    """Lower the priority of this process and those it starts to `nice`, and meanwhile that of its session.

    One that is lower already stays. Where the system has no such sessions, nice values count everywhere.
    """
    if os.getpriority(os.PRIO_PROCESS, 0) < nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    before = _session_nice(session)
    if before is None or before >= nice:
        yield
        return
    _set_session_nice(session, nice)
    try:
        yield
    finally:
        _set_session_nice(session, before)


def _session_nice(session: Path) -> int | None:
    """Return the nice value of a session, as in `/autogroup-25 nice 0`; None if the system has none."""
    try:
        told = session.read_text()
    except FileNotFoundError:
        return None
    return int(told.split()[-1]) if told.strip() else None


def _set_session_nice(session: Path, nice: int) -> None:
    try:
        session.write_text(str(nice))
    except OSError as error:
        logger.warning("the priority of this session stays as it is: %s", error)
