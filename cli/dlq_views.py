"""Dead letters as `shopstream dlq list` and `show` show them."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.errors import ShopstreamError
from config.settings import Settings
from replay.dead_letter_fates import Told, chain, read_fates
from replay.dead_letter_selection import PositionName, RedriveOptions, count_by, select
from replay.letter_decoding import LetterDecoder
from replay.letter_probing import probe_of
from schemas.registry import RegistryClient
from schemas.rules import Problem
from sinks.lake_root import Lake
from sinks.letter_reads import Letter, letters
from sinks.redrives import Attempt, read_attempts
from streams.clock import SystemClock

PREVIEW_BYTES: Final = 256
_HEX_COLUMNS: Final = 16


def list_payload(lake: Lake, told: Sequence[Told], fate: str, limit: int) -> dict[str, Any]:
    """Return the JSON form of a list: counts of all, and the newest ones of a fate with their details."""
    _, by_fate = count_by(told)
    chosen = [each for each in told if fate in {"all", each.fate.value}]
    by_reason, _ = count_by(chosen)
    shown = chosen[:limit]
    details = {letter.head.position: letter.detail for letter in letters(lake, [each.head for each in shown])}
    return {
        "fate": fate,
        "letters": len(chosen),
        "by_reason": by_reason,
        "by_fate": by_fate,
        "shown": [_row(each) | {"detail": details.get(each.head.position, "")} for each in shown],
    }


def _row(told: Told) -> dict[str, Any]:
    head = told.head
    return {
        "position": str(head.position),
        "topic": head.topic,
        "partition": head.partition,
        "offset": head.offset,
        "append_time_ms": head.append_time_ms,
        "first_seen_ms": head.first_seen_ms,
        "stage": head.stage,
        "reason": head.reason,
        "schema_id": head.schema_id,
        "value_size_bytes": head.value_size,
        "fate": told.fate.value,
        "redriven_before": told.attempts_before,
    }


def print_list(console: Console, payload: Mapping[str, Any]) -> None:
    """Draw a list."""
    if payload["shown"]:
        table = Table("appended", "letter", "reason", "fate", "redriven before", "detail")
        for row in payload["shown"]:
            before = str(row["redriven_before"] or "")
            when, detail = moment(row["append_time_ms"]), Text(row["detail"])
            table.add_row(when, row["position"], row["reason"], row["fate"], before, detail)
        console.print(table)
    hidden = payload["letters"] - len(payload["shown"])
    if hidden:
        console.print(f"and {hidden:,} older ones: see --limit", highlight=False)
    console.print(
        f"{payload['letters']:,} letters ({payload['fate']}): {_counts(payload['by_reason'])}", highlight=False
    )
    console.print(f"by fate: {_counts(payload['by_fate'])}", highlight=False)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def read_letter(settings: Settings, lake: Lake, name: PositionName) -> dict[str, Any]:
    """Return the JSON form of one letter.

    Raises:
        NoSuchLetterError: it is not there.
        LakeUnavailableError: the lake cannot be read.
    """
    attempts = read_attempts(lake)
    heads = select(lake, RedriveOptions(named=(name,)))
    (told,) = read_fates(lake, heads, attempts)
    (letter,) = letters(lake, heads)
    return {
        **_row(told),
        "log_epoch": told.head.log_epoch,
        "detail": letter.detail,
        "key": None if letter.key is None else letter.key.decode(errors="replace"),
        "key_base64": _base64(letter.key),
        "value_base64": _base64(letter.value),
        "value_sha256": letter.value_sha256,
        "bytes_kept": letter.value is not None or told.head.value_size is None,
        "decoded": _decoded(settings, letter),
        "history": [_attempt_row(attempt) for attempt in chain(told.head.position, attempts)],
    }


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "letter": str(attempt.letter),
        "reason": attempt.reason,
        "published_to": None if attempt.target is None else str(attempt.target),
        "at_ms": attempt.redriven_ms,
        "finished": attempt.is_finished,
    }


def _decoded(settings: Settings, letter: Letter) -> dict[str, Any]:
    """Return the fields of a letter as far as they can be read now, or why not."""
    if letter.value is None:
        return {"fields": None, "why_not": "There are no bytes."}
    if not settings.registry.url:
        return {"fields": None, "why_not": "No schema registry is set."}
    registry = RegistryClient(settings.registry)
    decoder = LetterDecoder(registry, settings.events, SystemClock().now_ms, probe_of(settings, registry.fetch))
    try:
        decoder.look([letter])
        fields = decoder.fields_of(letter.record())
    except ShopstreamError as error:
        return {"fields": None, "why_not": str(error)}
    finally:
        registry.close()
    if isinstance(fields, Problem):
        return {"fields": None, "why_not": fields.detail}
    if fields is None:
        return {"fields": None, "why_not": "There is no schema of this topic to read them by."}
    return {"fields": {name: value for name, value in fields.items() if value is not None}, "why_not": None}


def print_letter(console: Console, payload: Mapping[str, Any]) -> None:
    """Draw one letter."""
    names = ("position", "log_epoch", "reason", "stage", "detail", "schema_id", "fate", "redriven_before", "key")
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in names:
        table.add_row(name, Text("none" if payload[name] is None else str(payload[name])))
    table.add_row("appended", moment(payload["append_time_ms"]))
    table.add_row("first seen", moment(payload["first_seen_ms"]))
    size = payload["value_size_bytes"]
    table.add_row("value", "none" if size is None else f"{size:,} bytes, SHA-256 {payload['value_sha256']}")
    console.print(table)
    decoded = payload["decoded"]
    if decoded["fields"] is not None:
        console.print("\nread by its schema:")
        for name, value in decoded["fields"].items():
            console.print(Text(f"  {name}: {value!r}"))
    else:
        console.print(Text(f"\nnot readable: {decoded['why_not']}"))
    if not payload["bytes_kept"]:
        console.print("\nIts bytes were not kept.")
    elif payload["value_base64"]:
        value = base64.b64decode(payload["value_base64"])
        console.print(Text("\n" + preview(value)))
    if payload["history"]:
        history = Table("redrive", "letter", "reason", "published to", "when", "finished", title="History")
        for row in payload["history"]:
            target = row["published_to"] or "not known"
            finished = "yes" if row["finished"] else "no"
            history.add_row(str(row["attempt"]), row["letter"], row["reason"], target, moment(row["at_ms"]), finished)
        console.print(history)


def preview(value: bytes, limit: int = PREVIEW_BYTES) -> str:
    """Return the first bytes as hexadecimal digits beside their text, a dot for what cannot be printed."""
    lines = []
    for first in range(0, min(len(value), limit), _HEX_COLUMNS):
        row = value[first : min(first + _HEX_COLUMNS, limit)]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{first:06x}  {row.hex(' '):<{3 * _HEX_COLUMNS - 1}}  {text}")
    if len(value) > limit:
        lines.append(f"and {len(value) - limit:,} more bytes: see --json")
    return "\n".join(lines)


def moment(time_ms: int) -> str:
    """Return a time for people."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
