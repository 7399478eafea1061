"""The catalog names what DESIGN section 4 lists, and its page is up to date."""

from pathlib import Path

from features.catalog import FEATURES, STATUS_FIELDS, VIEWS, WINDOWS, Feature, StatusField, as_markdown, views_of
from schemas.event import EVENT_TOPICS
from tests.logs import event, values_of

COUNTS = ("page_view_count", "click_count", "search_count", "cart_add_count", "cart_remove_count", "purchase_count")
DESIGN = {
    **dict.fromkeys(COUNTS, "5m 30m 1h 24h"),
    "cart_value_minor": "30m 1h 24h",
    "purchase_value_minor": "24h",
    **dict.fromkeys(("product_distinct", "category_distinct", "click_through_rate", "cart_rate"), "30m 24h"),
    "last_products": "24h",
    "seconds_since_last_event": "24h",
}
SESSION = (
    "open capped start_ms duration_s event_count page_view_count click_count search_count cart_add_count "
    "cart_value_minor product_distinct"
)
OUTPUTS: tuple[Feature | StatusField, ...] = (*FEATURES, *STATUS_FIELDS)
PYTHON_TYPES = {"int": int, "float": float, "bool": bool, "strings": list}


def test_lists_the_features_of_the_design_each_once() -> None:
    windowed = {f"{name}_{window}" for name, windows in DESIGN.items() for window in windows.split()}
    names = [feature.name for feature in FEATURES]

    assert len(names) == len(set(names))
    assert set(names) == windowed | {f"session_{name}" for name in SESSION.split()}


def test_a_windowed_name_ends_with_its_window() -> None:
    for feature in FEATURES:
        assert feature.window in WINDOWS or feature.name.startswith("session_")
        assert feature.window is None or feature.name.endswith(f"_{feature.window}")


def test_values_have_the_declared_types() -> None:
    busy = values_of([event(0, product_id="p1", category_id="c1"), event(1, "add")])
    nobody = values_of([])

    assert list(busy) == [output.name for output in OUTPUTS]
    for output in OUTPUTS:
        assert type(busy[output.name]) is PYTHON_TYPES[output.dtype], output.name
        assert output.nullable or type(nobody[output.name]) is PYTHON_TYPES[output.dtype], output.name


def test_every_topic_has_a_view_and_those_of_version_1_are_called_as_released() -> None:
    assert set(VIEWS) == set(EVENT_TOPICS)
    assert {view.view: view.push_source for view in views_of(1).values()} == {
        "user_clicks_v1": "user_clicks_push",
        "user_carts_v1": "user_carts_push",
    }


def test_the_reference_page_is_generated() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "features.md"

    assert page.read_text() == as_markdown(), (
        "Write it anew: python -c 'from features.catalog import as_markdown; print(as_markdown(), end=\"\")' "
        "> docs/reference/features.md"
    )
