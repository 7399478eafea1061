"""Tells how far work has come while it is under way."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from rich.console import Console

TELL_EVERY_S: Final = 2.0

T = TypeVar("T")


async def followed(work: Coroutine[Any, Any, T], line: Callable[[], str], console: Console) -> T:
    """Await some work, and print a line every two seconds until it is done.

    Args:
        line: says how far it has come.
    """
    task = asyncio.create_task(work)
    while not (await asyncio.wait([task], timeout=TELL_EVERY_S))[0]:
        console.print(line(), highlight=False, soft_wrap=True)
    return await task
