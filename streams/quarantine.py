"""Finds the records that end the process which decodes them, by letting another process decode them.

A worker asks when the owners of a partition died one after the other with its fence at the same place. What it is told
becomes dead letters and is never decoded in the worker. A worker that was killed for another reason has only started a
little more slowly.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from config.settings import EventSettings, WorkerSettings
from schemas.codec import schema_ids
from schemas.errors import UnknownSchemaIdError
from schemas.event import Record
from streams.errors import ProbingError
from streams.probing import ProbeAnswer, ProbeTask

PROBING_COMMAND: Final = (sys.executable, "-P", "-m", "streams.probing")
CULPRITS_MAX: Final = 50  # of one batch; more is no bad record any more, and takes its time


class ProbingQuarantine:
    """Implements `streams.ports.Quarantine` with a child process per batch.

    Args:
        fetch: returns the text of a schema by id; raises UnknownSchemaIdError, or another error to be repeated.
        limits: what an event may be.
        settings: CPU time and memory for one record.
        command: answers one `ProbeTask`.
    """

    def __init__(
        self,
        fetch: Callable[[int], str],
        *,
        limits: EventSettings,
        settings: WorkerSettings,
        command: Sequence[str] = PROBING_COMMAND,
    ) -> None:
        self._fetch = fetch
        self._limits = limits
        self._settings = settings
        self._command = command

    async def culprits(self, records: Sequence[Record], partition_count: int) -> tuple[Mapping[int, str], int]:
        """Decode records in another process.

        Returns:
            How each culprit ended it, by offset, and how many of the records were tried.

        Raises:
            ProbingError: it gave no answer.
            RegistryUnavailableError: the schemas could not be fetched.
        """
        # not through the codec: what loading a schema does is part of the question
        schemas = await asyncio.to_thread(self._schemas, schema_ids(records, self._limits.message_bytes_max))
        task = ProbeTask(
            limits=self._limits.model_dump(),
            schemas=schemas,
            partition_count=partition_count,
            cpu_s=self._settings.probe_cpu_s,
            memory_bytes=self._settings.probe_memory_mb * 1_000_000,
            culprits_max=CULPRITS_MAX,
            records=list(records),
        )
        *culprits, end = _answers(await self._run(msgspec.msgpack.encode(task)))
        return {answer.offset: answer.ended for answer in culprits if answer.offset is not None}, end.tried or 0

    def _schemas(self, ids: set[int]) -> dict[int, str]:
        texts = {}
        for schema_id in sorted(ids):
            try:
                texts[schema_id] = self._fetch(schema_id)
            except UnknownSchemaIdError:
                continue
        return texts

    async def _run(self, task: bytes) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # Ctrl-C in the worker's terminal must not look like the work of a record
        )
        try:
            answer, _ = await process.communicate(task)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has forked
                await process.wait()
        if process.returncode:
            raise ProbingError(f"The process that tries suspicious records ended with {process.returncode}.")
        return answer


def _answers(output: bytes) -> list[ProbeAnswer]:
    try:
        answers = [msgspec.json.decode(line, type=ProbeAnswer) for line in output.splitlines()]
    except msgspec.MsgspecError as error:
        raise ProbingError(
            f"The process that tries suspicious records gave an answer of another kind: {error}."
        ) from error
    if not answers or answers[-1].tried is None:
        raise ProbingError("The process that tries suspicious records gave no answer.")
    return answers


def _environment() -> dict[str, str]:
    """Return what a Python process needs, but none of our settings: some are secret, and the bytes may be hostile."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOPSTREAM_")}
    return {**kept, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
