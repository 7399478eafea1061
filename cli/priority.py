"""How far a command gives way to other processes of the machine."""

import os
from typing import Annotated, Final

import typer

GIVES_WAY: Final = 10

NiceOption = Annotated[
    int, typer.Option("--nice", min=0, max=19, help="How far to give way to other processes; 19 is furthest.")
]


def give_way(nice: int) -> None:
    """Lower the priority of this process to `nice`; one that is lower already stays."""
    if os.getpriority(os.PRIO_PROCESS, 0) < nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
