"""Mutated messages, decoded in a process that may die of them: `python -m tests.unit.schemas.codec_fuzz --count N`.

Each becomes an event or a dead letter, within bounds of memory and CPU time that the process itself sets. Every message
has a number, and comes from the seed and that number alone. The number of the first of each chunk is written to the
progress file before the chunk is decoded. After a crash the chunk is decoded again message by message, so that the
crash is pinned to one number; `--inside --first N --count 1` shows it again.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from fastavro import schemaless_writer

from config.settings import EventSettings
from schemas.codec import Codec
from schemas.dead_letter import DeadLetter, Reason
from schemas.encoder import Encoder
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event, Record
from schemas.loading import load, own_schema
from schemas.partitioner import partition_of
from tests.unit.schemas.conftest import IDS, NOW_MS, PARTITIONS, HeldSchemas

ROOT: Final = Path(__file__).resolve().parents[3]
MODULE = "tests.unit.schemas.codec_fuzz"
SEED: Final = 20_240_607
CHUNK: Final = 1_000
MEMORY_BYTES: Final = 400_000_000  # on top of what the interpreter has when it starts
CPU_S: Final = 5.0  # for one message
MESSAGE_BYTES: Final = 1_000_000

_USER: Final = "u-1"
_EDGES: Final = (
    b"\x01", b"\x03", b"\x80", b"\xff", b"\0", b"\xff" * 9 + b"\x01", b"\x80" * 20 + b"\0", b"\xfe" * 9 + b"\x01",
    b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\x0f", b"\x01\x02", b"\xc0\x84\x3d",
)  # fmt: skip
_MORE_FIELDS: Final[list[dict[str, Any]]] = [
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "counts", "type": {"type": "map", "values": ["null", "double", "long"]}},
    {"name": "flags", "type": {"type": "array", "items": "boolean"}},
    {"name": "grid", "type": {"type": "array", "items": {"type": "array", "items": "int"}}},
    {
        "name": "context",
        "type": [
            "null",
            {
                "type": "record",
                "name": "Context",
                "fields": [
                    {"name": "mood", "type": {"type": "enum", "name": "Mood", "symbols": ["A", "B", "C"]}},
                    {"name": "mark", "type": {"type": "fixed", "name": "Mark", "size": 3}},
                    {"name": "flag", "type": "boolean"},
                    {"name": "score", "type": "float"},
                    {"name": "raw", "type": "bytes"},
                ],
            },
        ],
    },
]
_MORE_VALUES: Final[dict[str, Any]] = {
    "tags": ["a", "b"],
    "counts": {"x": 1.5, "y": None, "z": 3},
    "flags": [True, False],
    "grid": [[1, 2], [], [3]],
    "context": {"mood": "B", "mark": b"abc", "flag": True, "score": 1.0, "raw": b"xx"},
}


@dataclass(frozen=True)
class Findings:
    """What a run found.

    Attributes:
        count: messages decoded.
        events: how many of them are still events.
        letters: the others, by reason.
        ended: how the process ended, in words; empty if as it should.
        culprit: number of the message that ended it.
        peak_mb: most memory that the process held.
    """

    count: int
    events: int
    letters: Mapping[str, int]
    ended: str
    culprit: int | None
    seconds: float
    peak_mb: int


def run(count: int, *, seed: int = SEED, first: int = 0) -> Findings:
    """Decode so many mutated messages in a child process, and find the message that ended it, if one did."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        done = _child(count, seed=seed, first=first, chunk=CHUNK, progress=progress)
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(done.stdout)
            return Findings(**found, ended="", culprit=None)
        reached = int(progress.read_text()) if progress.is_file() else first
        again = _child(CHUNK, seed=seed, first=reached, chunk=1, progress=progress)
        culprit = int(progress.read_text()) if again.returncode else None
        words = f"exit code {done.returncode}: {done.stderr.strip()[-500:]}"
        return Findings(reached - first, 0, {}, words, culprit, 0.0, 0)


def _child(count: int, *, seed: int, first: int, chunk: int, progress: Path) -> "subprocess.CompletedProcess[str]":
    numbers = {"count": count, "seed": seed, "first": first, "chunk": chunk}
    arguments = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", MODULE, "--inside", *arguments, "--progress", str(progress)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


# -- the messages ------------------------------------------------------------------------------------------------------


def schemas_of_other_releases() -> dict[int, str]:
    """Return writers' schemas by id: one with more fields, one with fewer, and one that needs fastavro's resolution."""
    newer, older, other = (json.loads(own_schema(CLICKS_TOPIC)) for _ in range(3))
    newer["fields"] += _MORE_FIELDS
    other["fields"] += _MORE_FIELDS
    other["fields"][4]["type"].reverse()
    del other["fields"][4]["default"]
    older["fields"] = older["fields"][:6]
    carts = json.loads(own_schema(CARTS_TOPIC))
    carts["fields"] += _MORE_FIELDS[:2]
    return {10: json.dumps(newer), 11: json.dumps(older), 12: json.dumps(other), 13: json.dumps(carts)}


class Messages:
    """Mutated messages by number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.texts = {**HeldSchemas().texts, **schemas_of_other_releases()}
        self._good = self._good_messages(_MORE_VALUES, _USER)
        # too many items, and a required field that is empty
        self._seldom = self._good_messages({**_MORE_VALUES, "flags": [True] * 12_000, "grid": [[1]] * 4_000}, "")

    def record(self, number: int) -> Record:
        """Return the message of that number: the same for the same seed."""
        rng = random.Random(f"{self._seed}/{number}")
        topic, good = rng.choice(self._good if rng.random() < 0.99 else self._seldom)
        value = _mutated(good, rng.choice(self._good)[1], rng)
        key = _USER.encode()
        return Record(topic, partition_of(key, PARTITIONS), number, NOW_MS, key, value)

    def _good_messages(self, more: Mapping[str, Any], user_id: str) -> list[tuple[str, bytes]]:
        common: dict[str, Any] = {"user_id": user_id, "session_id": "s-1", "device": "mobile", "product_id": "p-1"}
        click = Event(
            event_id="e-1", kind="search", event_time_ms=NOW_MS, query="schöne Schuhe", result_count=12, position=3,
            page="/suche", **common,
        )  # fmt: skip
        cart = Event(
            event_id="e-2", kind="add", event_time_ms=NOW_MS, quantity=2, unit_price_minor=1_999, currency="EUR",
            **common,
        )  # fmt: skip
        encoder = Encoder(IDS)
        good = [(topic, encoder.event(topic, event)) for topic, event in ((CLICKS_TOPIC, click), (CARTS_TOPIC, cart))]
        values = {
            "event_id": "e", "user_id": user_id, "event_time": NOW_MS, **more, "product_id": "p", "quantity": 1,
            "unit_price_minor": 1, "currency": "EUR",
        }  # fmt: skip
        for schema_id, text in schemas_of_other_releases().items():
            topic, kind = (CARTS_TOPIC, "add") if schema_id == 13 else (CLICKS_TOPIC, "click")
            out = BytesIO()
            schemaless_writer(out, load(text).wire, {**values, "kind": kind})
            good.append((topic, b"\0" + schema_id.to_bytes(4, "big") + out.getvalue()))
        return good


def _mutated(good: bytes, other: bytes, rng: random.Random) -> bytes:
    value = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        _mutate(value, other, rng)
    return bytes(value[:MESSAGE_BYTES])


def _mutate(value: bytearray, other: bytes, rng: random.Random) -> None:
    first = 0 if rng.random() < 0.1 else 5
    at = rng.randrange(first, len(value) + 1) if len(value) >= first else 0
    match rng.randrange(10):
        case 0:
            value[at : at + 1] = rng.randbytes(1)
        case 1 if at < len(value):
            value[at] ^= 1 << rng.randrange(8)
        case 2:
            del value[at:]
        case 3:
            value[at:at] = rng.randbytes(rng.randrange(1, 6))
        case 4:
            del value[at : at + rng.randrange(1, 5)]
        case 5:
            value[at : at + 1] = rng.choice(_EDGES)
        case 6:  # a length or a count that says more than there is, or less
            value[at : at + 1] = _number(rng.choice((-1, 1)) * rng.getrandbits(rng.randrange(1, 64)))
        case 7:
            value[at:] = other[rng.randrange(len(other)) :]
        case 8:
            value[:] = rng.randbytes(rng.randrange(60))
        case _:  # many items that take a byte each
            value[at:at] = _number(rng.randrange(300)) + bytes([rng.choice((0, 1, 2))]) * rng.randrange(300)


def _number(value: int) -> bytes:
    raw = ((value << 1) ^ (value >> 63)) & (2**64 - 1)
    out = bytearray()
    while raw > 0x7F:
        out.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*out, raw])


# -- inside the child --------------------------------------------------------------------------------------------------


def _inside(count: int, seed: int, first: int, chunk: int, progress: Path) -> None:
    messages = Messages(seed)
    source = HeldSchemas(texts=messages.texts)
    codec = Codec(source, limits=EventSettings(), unknown_id_ttl_s=1e6, clock_ms=lambda: NOW_MS)
    codec.resolve(messages.texts)
    _limit()
    seen: Counter[str] = Counter()
    started_s = time.monotonic()
    for number in range(first, first + count):
        if (number - first) % chunk == 0:
            progress.write_text(str(number))
        record = messages.record(number)
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        codec.resolve(codec.unresolved([record]))
        result = codec.decode(record, PARTITIONS)
        if isinstance(result, DeadLetter):
            assert result.value == record.value
            assert result.detail
            seen[result.reason] += 1
        else:
            seen["event"] += 1
    events = seen.pop("event", 0)
    peak_mb = _peak_bytes() // 1_000_000
    seconds = round(time.monotonic() - started_s, 1)
    letters = {reason.value: seen[reason] for reason in Reason if seen[reason]}
    found = Findings(count, events, letters, "", None, seconds, peak_mb)
    answer = {name: value for name, value in asdict(found).items() if name not in ("ended", "culprit")}
    sys.stdout.write(json.dumps(answer) + "\n")


def _peak_bytes() -> int:
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = (
        Path("/proc/self/status").read_text().splitlines()
    )  # getrusage also counts the process that started this one
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1_024


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def main() -> int:
    """Run, print one JSON line, and return 0 if every message became an event or a dead letter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--first", type=int, default=0, help="number of the first message")
    parser.add_argument("--inside", action="store_true", help="decode in this process")
    parser.add_argument("--chunk", type=int, default=CHUNK)
    parser.add_argument("--progress", type=Path, default=Path(os.devnull))
    given = parser.parse_args()
    if given.inside:
        _inside(given.count, given.seed, given.first, given.chunk, given.progress)
        return 0
    found = run(given.count, seed=given.seed, first=given.first)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return 1 if found.ended else 0


if __name__ == "__main__":
    sys.exit(main())
