"""Finds dead letters by what their bytes hold: a record that could not be read may name a user anywhere.

An id counts where it stands as a whole: as Avro writes a text, behind its length, or between bytes that no id holds. So
the letters of `u1` are found, and those of `u12` are not.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from sinks.lake_root import Lake
from sinks.tables import DEAD_LETTERS

_LETTERS_AT_ONCE: Final = 256  # one may have megabytes
_PLACE_COLUMNS: Final = ("log_epoch", "topic", "partition", "offset")
_IN_AN_ID: Final = rb"[0-9A-Za-z_.@+\-\x80-\xff]"


class LetterPlace(NamedTuple):
    """Where one letter is."""

    log_epoch: str
    topic: str
    partition: int
    offset: int


def letters_naming(lake: Lake, user_id: str) -> list[LetterPlace]:
    """Return the letters whose value, key or words name a user; reads every letter's bytes.

    Raises:
        LakeUnavailableError: the table cannot be read.
    """
    from sinks.delta import explained, opened

    path = lake / DEAD_LETTERS.name
    handle = opened(path)
    if handle is None:
        return []
    with explained(path):
        return list(_found(handle.to_pyarrow_dataset(), user_id))


def names_user(text: bytes, user_id: str) -> bool:
    """Tell whether bytes hold an id as a whole."""
    wanted = user_id.encode()
    if _avro_text(wanted) in text:
        return True
    escaped = re.escape(wanted)
    return re.search(rb"(?<!%b)%b(?!%b)" % (_IN_AN_ID, escaped, _IN_AN_ID), text) is not None


def _found(dataset: Any, user_id: str) -> Iterator[LetterPlace]:
    from pyarrow import compute as pc

    texts = ("value", "key", "detail")
    batches = dataset.to_batches(
        columns=[*_PLACE_COLUMNS, *texts], batch_size=_LETTERS_AT_ONCE, batch_readahead=1, fragment_readahead=1
    )
    for batch in batches:
        holds = [pc.fill_null(pc.match_substring(batch.column(name), user_id), fill_value=False) for name in texts]
        likely = batch.filter(pc.or_(pc.or_(holds[0], holds[1]), holds[2]))
        for row in likely.to_pylist():
            if any(names_user(_bytes(row[name]), user_id) for name in texts if row[name] is not None):
                yield LetterPlace(*(row[name] for name in _PLACE_COLUMNS))


def _bytes(text: Any) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _avro_text(text: bytes) -> bytes:
    """Return a text as Avro writes it: its length as a zigzag number, and its bytes."""
    number, head = 2 * len(text), bytearray()
    while number > 0x7F:
        head.append(number & 0x7F | 0x80)
        number >>= 7
    head.append(number)
    return bytes(head) + text
