import pytest

from schemas.loading import load
from schemas.wire_check import VALUES_MAX, first_break

ARRAY = load('{"type":"record","name":"R","fields":[{"name":"many","type":{"type":"array","items":"boolean"}}]}').wire
MAP = load('{"type":"record","name":"R","fields":[{"name":"by_name","type":{"type":"map","values":"int"}}]}').wire
NAMED = load(
    '{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"record","name":"S","fields":'
    '[{"name":"x","type":"string"}]}},{"name":"b","type":["null","S"]}]}'
).wire


@pytest.mark.parametrize(
    ("schema", "body", "words"),
    [
        (ARRAY, b"\x04\x01\x00\x00", None),
        (ARRAY, b"\x03\x04\x01\x00\x00", None),  # a block with its size in bytes
        (ARRAY, b"\x04\x01", "many: 1 bytes are announced and 0 are left"),
        (ARRAY, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01", "many: 1 bytes are announced and 0 are left"),
        (MAP, b"\x02\x02k\x06\x00", None),
        (MAP, b"\x02\x02\xff\x06\x00", "by_name: its text is not UTF-8"),
        (NAMED, b"\x02a\x02\x02b", None),
        (NAMED, b"\x02a\x02\x04b", "b.x: 2 bytes are announced and 1 are left"),
        (NAMED, b"\x02a\x07", "b: branch -4 of 2"),
        (NAMED, b"", "a.x: 1 bytes are announced and 0 are left"),
    ],
)
def test_where_a_body_breaks(schema: dict[str, object], body: bytes, words: str | None) -> None:
    assert first_break(schema, body) == words


def test_a_long_walk_gives_up() -> None:
    assert first_break(ARRAY, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" + b"\0" * VALUES_MAX) is None
