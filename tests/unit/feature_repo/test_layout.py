"""The rows that we join from templates are the rows that Feast builds from messages."""

from datetime import UTC, datetime

import pytest

from feature_repo import load_feast
from feature_repo.layout import (
    KeyTemplate,
    frame_state,
    frame_timestamp,
    unframe_state,
    unframe_timestamp,
    view_fields,
)
from features.state import TRAILER_BYTES

load_feast()


@pytest.mark.parametrize("user_id", ["u-1", "", "näme", "a" * 300, "\N{SHOPPING TROLLEY}", "shop"])
def test_keys_are_feasts(user_id: str) -> None:
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    entity_key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
    assert KeyTemplate.of("shop").key(user_id) == _redis_key("shop", entity_key, 3)


def test_a_template_owns_the_keys_of_its_project_only() -> None:
    shop, myshop = KeyTemplate.of("shop"), KeyTemplate.of("myshop")
    assert all(shop.owns(shop.key(user)) for user in ("u", "", "shop", "my"))
    assert not any(shop.owns(myshop.key(user)) for user in ("u", "", "shop", "my"))
    assert not shop.owns(b"shop:fence:shop.clicks.v1")


def test_fields_are_feasts() -> None:
    from feast.infra.online_stores.helpers import _mmh3

    fields = view_fields("user_clicks_v1")
    assert fields.state == _mmh3("user_clicks_v1:state")
    assert fields.timestamp == b"_ts:user_clicks_v1"


@pytest.mark.parametrize("length", [18, 127, 128, 16_383, 16_384, 70_000])
def test_values_are_feasts(length: int) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    state = b"\xff" * length
    framed = frame_state(state)
    assert framed == Value(bytes_val=state).SerializeToString()
    assert unframe_state(framed) == state


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        frame_state(b"x" * (TRAILER_BYTES - 1)),
        frame_state(b"x" * 40)[:-1],
        frame_state(b"x" * 40) + b"x",
        b"\x12" + frame_state(b"x" * 40)[1:],
        b"\x0a" + b"\xff" * 40,
    ],
)
def test_anything_else_is_no_value(stored: bytes) -> None:
    assert unframe_state(stored) is None


@pytest.mark.parametrize("timestamp_ms", [0, 1, 999, 1_000, 1_700_000_000_000, 1_700_000_000_123, -1, -86_400_000])
def test_timestamps_are_feasts(timestamp_ms: int) -> None:
    from feast.protos.feast.core.Registry_pb2 import Registry

    message = Registry().last_updated
    message.FromMilliseconds(timestamp_ms)
    framed = frame_timestamp(timestamp_ms)
    assert framed == message.SerializeToString()
    assert unframe_timestamp(framed) == timestamp_ms
    assert datetime.fromtimestamp(timestamp_ms / 1_000, tz=UTC) == message.ToDatetime(tzinfo=UTC)


def test_a_row_without_a_timestamp_is_of_1970() -> None:
    assert unframe_timestamp(None) == 0
