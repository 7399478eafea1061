"""docs/reference/events.md names every topic, field, kind, reason and limit that the code knows."""

import json
from pathlib import Path

import pytest

from config.settings import EventSettings
from schemas import loading, rules
from schemas.dead_letter import Reason, Stage
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, DEAD_LETTERS_TOPIC, KINDS_BY_TOPIC, RETRAIN_TOPIC
from schemas.loading import own_schema

REFERENCE = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "events.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("topic", [CLICKS_TOPIC, CARTS_TOPIC, DEAD_LETTERS_TOPIC, RETRAIN_TOPIC])
def test_topics_and_fields(topic: str) -> None:
    assert f"`{topic}`" in REFERENCE
    for part in json.loads(own_schema(topic))["fields"]:
        mark = "?" if isinstance(part["type"], list) else ""
        assert f"`{part['name']}{mark}`" in REFERENCE


@pytest.mark.parametrize("word", [*Reason, *Stage, *(kind for kinds in KINDS_BY_TOPIC.values() for kind in kinds)])
def test_reasons_stages_and_kinds(word: str) -> None:
    assert f"`{word}`" in REFERENCE


@pytest.mark.parametrize(
    "limit",
    [
        rules.QUANTITY_MAX,
        rules.UNIT_PRICE_MINOR_MAX,
        rules.LINE_VALUE_MINOR_MAX,
        EventSettings().message_bytes_max,
        EventSettings().letter_value_bytes_max,
        loading.NODES_MAX,
        loading.SCHEMA_CHARS_MAX,
    ],
)
def test_limits(limit: int) -> None:
    assert f"{limit:,}" in REFERENCE


def test_limits_of_texts() -> None:
    assert f"1 to {rules.EVENT_ID_BYTES_MAX} bytes. Equal ids" in REFERENCE
    assert f"1 to {rules.USER_ID_BYTES_MAX} bytes; equal to the key" in REFERENCE
    assert f"| `product_id` | string | 1 to {rules.PRODUCT_ID_BYTES_MAX} bytes |" in REFERENCE
    assert f"| `product_id?` | string | at most {rules.PRODUCT_ID_BYTES_MAX} bytes; an empty" in REFERENCE
    assert f"at most {rules.CATEGORY_ID_BYTES_MAX} bytes; an empty text counts as null" in REFERENCE
    assert f"nesting of more than {loading.NESTING_MAX} levels" in REFERENCE
