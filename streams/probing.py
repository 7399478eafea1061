"""Decodes records for a worker in processes that may die of it: `python -m streams.probing`.

One task in msgpack on stdin; on stdout one JSON line per record that ends the process which decodes it, then one with
how many were tried. This process itself decodes nothing: it forks one that does, with limits on its memory and CPU
time, learns from a pipe how far it came, and forks another behind the record that ended it.

CPU time and not the clock's is limited, so that a busy or suspended machine makes nobody a culprit.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from config.settings import EventSettings
from schemas.codec import Codec
from schemas.dead_letter import DeadLetter
from schemas.decoding_plan import OUT_OF_MEMORY
from schemas.errors import UnknownSchemaIdError
from schemas.event import Record

# Sent by people and by the system as often as earned by a record: whether it was the record shows when it is repeated.
FROM_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
TRIES: Final = 3

_DONE: Final = b"."
_ERROR_MARK: Final = b"!"
_MEMORY_EXIT: Final = 3
_ERROR_EXIT: Final = 4


class ProbeTask(msgspec.Struct):
    """What a worker wants to know.

    Attributes:
        limits: `EventSettings` as a mapping.
        schemas: text of each schema id that the records name; unknown ones are absent.
        cpu_s: CPU time for one record.
        memory_bytes: memory for all that a process decodes, on top of what the interpreter takes.
        culprits_max: after so many culprits it goes no further.
    """

    limits: dict[str, Any]
    schemas: dict[int, str]
    partition_count: int
    cpu_s: float
    memory_bytes: int
    culprits_max: int
    records: list[Record]


class ProbeAnswer(msgspec.Struct, omit_defaults=True):
    """One line of output: a culprit's offset and how it ended the process, or at the end how many were tried."""

    offset: int | None = None
    ended: str = ""
    tried: int | None = None


@dataclass(frozen=True, slots=True)
class _Texts:
    """Implements `schemas.codec.SchemaSource`."""

    texts: Mapping[int, str]

    def fetch(self, schema_id: int) -> str:
        try:
            return self.texts[schema_id]
        except KeyError:
            raise UnknownSchemaIdError(schema_id) from None


def probe(task: ProbeTask) -> list[ProbeAnswer]:
    """Decode each record in a child process, and return the culprits and how many records were tried."""
    answers: list[ProbeAnswer] = []
    at = tries = 0
    while at < len(task.records) and len(answers) < task.culprits_max:
        life = _decode_from(task, at)
        tries = 1 if life.survived else tries + 1
        at += life.survived
        if at == len(task.records):
            break
        if life.is_ended_from_outside and tries < TRIES:
            continue
        answers.append(ProbeAnswer(offset=task.records[at].offset, ended=life.sentence(task)))
        at += 1
        tries = 0
    return [*answers, ProbeAnswer(tried=at)]


def main() -> None:
    """Answer the task on stdin."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=ProbeTask)
    for answer in probe(task):
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


@dataclass(frozen=True, slots=True)
class _Life:
    """How far a child came, and how it ended.

    Attributes:
        survived: records that it decoded.
        error: what was raised, in words, if something was.
        status: as `waitpid` tells it.
    """

    survived: int
    error: str
    status: int

    @property
    def is_ended_from_outside(self) -> bool:
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) in FROM_OUTSIDE

    def sentence(self, task: ProbeTask) -> str:
        if os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            if number == signal.SIGPROF:
                return f"Decoding it takes more than {task.cpu_s:g} s of CPU time."
            return f"Decoding it ends the process by signal {number} ({signal.Signals(number).name})."
        code = os.WEXITSTATUS(self.status)
        if code == _MEMORY_EXIT:
            return f"Decoding it takes more than {task.memory_bytes // 1_000_000} MB of memory."
        return f"Decoding it ends the process with code {code}{self.error and f' ({self.error})'}."


def _decode_from(task: ProbeTask, first: int) -> _Life:
    """Decode the records from there on in a child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_decode(task, first, writing))  # never back into the code of the parent
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        survived, _, error = told.read().partition(_ERROR_MARK)
    return _Life(len(survived), error.decode(errors="replace"), os.waitpid(child, 0)[1])


def _decode(task: ProbeTask, first: int, writing: int) -> int:
    """Decode, write a byte per record that is done, and return the exit code."""
    try:
        _limit_memory(task.memory_bytes)
        limits = EventSettings(**task.limits)
        now_ms = time.time_ns() // 1_000_000
        codec = Codec(_Texts(task.schemas), limits=limits, unknown_id_ttl_s=3_600, clock_ms=lambda: now_ms)
        for record in task.records[first:]:
            signal.setitimer(signal.ITIMER_PROF, task.cpu_s)  # its signal ends the process, in native code, too
            codec.resolve(codec.unresolved([record]))
            result = codec.decode(record, task.partition_count)
            if isinstance(result, DeadLetter) and result.detail == OUT_OF_MEMORY.detail:
                return _MEMORY_EXIT
            os.write(writing, _DONE)
    except MemoryError:
        return _MEMORY_EXIT
    except BaseException as error:  # noqa: BLE001 - whatever it is, it would have ended the worker
        os.write(writing, _ERROR_MARK + f"{type(error).__name__}: {error}".encode()[:300])
        return _ERROR_EXIT
    return 0


def _limit_memory(memory_bytes: int) -> None:
    if sys.platform != "linux":
        return  # elsewhere the limit is not kept
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, used + memory_bytes))


if __name__ == "__main__":
    main()
