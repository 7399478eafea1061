"""The body of the on-demand view, called as Feast calls it."""

from typing import Any

import pytest

from feature_repo.errors import AmbiguousStateError
from feature_repo.on_demand import OUTPUTS, STATE_STATUS, session_features
from features.apply import fold
from features.catalog import FEATURES, ON_DEMAND_VIEW, VIEWS
from features.finalize import finalize
from features.state import decode
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event

NOON_MS = 1_700_000_000_000
PYTHON_TYPES = {"int": int, "float": float, "bool": bool, "strings": list}


def clicks(**more: Any) -> bytes:
    event = Event(event_id="e", kind="page_view", user_id="u", event_time_ms=NOON_MS, **more)
    return fold(None, [(0, event)]).state


def inputs(clicks_states: list[bytes | None], carts_states: list[bytes | None], as_of: list[int | None]) -> Any:
    return {"user_clicks_v1__state": clicks_states, "user_carts_v1__state": carts_states, "as_of": as_of}


def test_each_row_is_finalized_for_its_own_instant() -> None:
    state = clicks(product_id="p")
    columns = session_features(inputs([state, None, state], [None] * 3, [NOON_MS, NOON_MS, None]))
    expected = [
        finalize({CLICKS_TOPIC: decode(state), CARTS_TOPIC: None}, NOON_MS),
        finalize({}, NOON_MS),
        finalize({CLICKS_TOPIC: decode(state)}, None),
    ]
    for output in OUTPUTS:
        assert columns[output.name] == [row[output.name] for row in expected]
        assert columns[f"{ON_DEMAND_VIEW}__{output.name}"] == columns[output.name]
    assert columns[STATE_STATUS] == ["ok"] * 3


def test_a_column_of_empty_lists_has_no_type_under_its_full_name() -> None:
    columns = session_features(inputs([clicks()], [None], [NOON_MS]))
    assert columns["last_products_24h"] == [[]]
    assert columns[f"{ON_DEMAND_VIEW}__last_products_24h"] == [None]


def test_feasts_sample_is_answered_with_the_declared_types() -> None:
    """`feast apply` infers types from this call, and refuses a view whose answer holds a null."""
    sample = [b"hello world"]
    columns = session_features(inputs(sample, sample, [1]))  # type: ignore[arg-type]
    for output in OUTPUTS:
        (value,) = columns[output.name]
        assert type(value) is PYTHON_TYPES[output.dtype]


@pytest.mark.parametrize(
    "junk",
    [b"", b"\x00", b"hello worlds", b"x" * 100, b"no state" + b"\x00" * 18],
)
def test_junk_is_told_and_its_row_is_null(junk: bytes) -> None:
    columns = session_features(inputs([clicks(), junk], [None, None], [NOON_MS, NOON_MS]))
    assert columns[STATE_STATUS] == ["ok", "unreadable: user_clicks_v1"]
    assert all(columns[feature.name][1] is None for feature in FEATURES)
    assert columns["page_view_count_24h"] == [1, None]


def test_a_state_of_the_other_topic_is_no_state() -> None:
    columns = session_features(inputs([None], [clicks()], [NOON_MS]))
    assert columns[STATE_STATUS] == [f"unreadable: {', '.join(view.view for view in VIEWS.values())}"]
    assert columns["page_view_count_24h"] == [None]


def test_one_list_for_both_views_is_a_lost_state() -> None:
    lost: list[bytes | None] = [clicks()]
    with pytest.raises(AmbiguousStateError, match="full_feature_names=True"):
        session_features(inputs(lost, lost, [NOON_MS]))
