"""What parity compares of one user: canonical hashes of states and features, and the instants of the values."""

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from features.catalog import FEATURES
from features.finalize import finalize
from features.state import TRAILER_BYTES, decode, read_trailer

__all__ = [
    "FORWARD_MS",
    "ContentHash",
    "InstantsOf",
    "content_of",
    "instants_at",
    "instants_from_newest",
    "packed",
    "sampled",
    "unpacked",
    "values_at",
]

InstantsOf = Callable[[str, int], tuple[int, ...]]
Values = Mapping[str, Any]

_MINUTE_MS: Final = 60_000
FORWARD_MS: Final = (0, 7 * _MINUTE_MS, 31 * _MINUTE_MS, 180 * _MINUTE_MS)
_SEEDED_TO_MS: Final = 26 * 60 * _MINUTE_MS  # beyond the longest window

_HASH_BYTES: Final = 16
_VERSION: Final = struct.Struct(">Q")
_PLAIN: Final[Mapping[str, Callable[[Any], Any]]] = {"int": int, "float": float, "bool": bool, "strings": list}
_CONVERT: Final = {feature.name: _PLAIN[feature.dtype] for feature in FEATURES}


def content_of(state: bytes) -> bytes:
    """Return what must agree of a state: its body and its version.

    Left out are the generation and what it was built from: they tell of repairs and of how the log was cut.
    """
    return state[:-TRAILER_BYTES] + _VERSION.pack(read_trailer(state).version)


def values_at(states: Mapping[str, bytes], instants: Iterable[int]) -> list[Values]:
    """Return the features at each instant, computed from states by topic; a topic without one is absent."""
    decoded = {topic: decode(state) for topic, state in states.items()}
    return [finalize(decoded, instant) for instant in instants]


def instants_from_newest(user_id: str, newest_ms: int) -> tuple[int, ...]:
    """Return the sampled instants of a user: the newest event, 7 min, 31 min and 3 h after it, and a seeded one.

    None lies before the newest event: a state cannot answer for the past.
    """
    seed = int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8, person=b"instant").digest(), "big")
    return (*(newest_ms + forward for forward in FORWARD_MS), newest_ms + seed % _SEEDED_TO_MS)


def instants_at(wanted_ms: Sequence[int]) -> InstantsOf:
    """Return the same instants for every user; one before a user's newest event is raised to it in all ways."""
    return lambda _user_id, _newest_ms: tuple(wanted_ms)


def sampled(user_ids: Iterable[str], count: int | None) -> list[str]:
    """Return so many users, the same ones whenever they are asked for; None for all. In the order of their ids."""
    found = set(user_ids)
    if count is not None and count < len(found):
        found = set(sorted(found, key=_rank)[:count])
    return sorted(found)


def _rank(user_id: str) -> bytes:
    return hashlib.blake2b(user_id.encode(), digest_size=8, person=b"sample").digest()


def canonical(name: str, value: Any) -> Any:
    """Return a feature's value as its type in the catalog says, whoever computed it."""
    return None if value is None else _CONVERT[name](value)


def encoded(name: str, value: Any) -> bytes:
    """Return the canonical bytes of a feature's value: equal bytes are equal values, to the last bit."""
    return msgspec.msgpack.encode(canonical(name, value))


def packed(rows: Sequence[Values]) -> bytes:
    """Return the values of every feature at some instants in little space; `unpacked` returns them."""
    return msgspec.msgpack.encode([[canonical(f.name, row[f.name]) for f in FEATURES] for row in rows])


def unpacked(values: bytes) -> list[Values]:
    """Return what was packed, by feature."""
    return [{f.name: value for f, value in zip(FEATURES, row, strict=True)} for row in msgspec.msgpack.decode(values)]


class ContentHash:
    """Hashes of all that one way gave: of the states, and of each feature; the order of the users does not count."""

    def __init__(self) -> None:
        self._sums: dict[str, int] = {}

    def add_state(self, topic: str, user_id: str, state: bytes) -> None:
        """Take in the state of a user."""
        self._add(topic, user_id, content_of(state))

    def add_values(self, user_id: str, instants: Sequence[int], by_feature: Mapping[str, Sequence[bytes]]) -> None:
        """Take in the encoded values of a user's features, one per instant."""
        for name, values in by_feature.items():
            self._add(name, user_id, msgspec.msgpack.encode((instants, values)))

    def payload(self) -> dict[str, str]:
        """Return a hash by topic and by feature, hexadecimal."""
        return {name: total.to_bytes(_HASH_BYTES, "big").hex() for name, total in sorted(self._sums.items())}

    def total(self) -> str:
        """Return one hash of all, hexadecimal."""
        return hashlib.blake2b(msgspec.json.encode(self.payload()), digest_size=_HASH_BYTES).hexdigest()

    def _add(self, name: str, user_id: str, content: bytes) -> None:
        hashed = hashlib.blake2b(user_id.encode() + b"\0" + content, digest_size=_HASH_BYTES).digest()
        total = self._sums.get(name, 0) + int.from_bytes(hashed, "big")
        self._sums[name] = total % (1 << (8 * _HASH_BYTES))
