"""The body of the on-demand view: states in, the catalog's features out, row by row.

Every read of features goes through `session_features`: live, training sets and tests.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from feature_repo.errors import AmbiguousStateError
from feature_repo.layout import STATE
from features.catalog import FEATURES, ON_DEMAND_VIEW, STATUS_FIELDS, VIEWS, Feature, StatusField
from features.errors import StateError
from features.finalize import finalize
from features.state import TopicState, decode

AS_OF: Final = "as_of"
STATE_STATUS: Final = "state_status"
STATE_OK: Final = "ok"

# `feast apply` calls an on-demand view once with this in place of every bytes field, to infer types from the answer.
_FEAST_SAMPLE: Final = b"hello world"
_TYPED_PLACEHOLDERS: Final = {"int": 0, "float": 0.0, "bool": False, "strings": [""]}

OUTPUTS: Final[tuple[Feature | StatusField, ...]] = (*FEATURES, *STATUS_FIELDS)


def session_features(inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Finalize the states of each row.

    Args:
        inputs: `<view>__state` for both views (bytes, or None for a user without one) and `as_of` (milliseconds, or
            None for the newest event time), all of one length.

    Returns:
        a column per feature and status field, and `state_status`: `ok`, or `unreadable:` and the views whose state
        cannot be read. The values of such a row are null, never zero. Each column has both its names, the short and
        the full one, because Feast does not rename what an on-demand view in Python returns. Under its full name,
        an empty list in a column of empty lists is null: Feast cannot tell its type.

    Raises:
        AmbiguousStateError: asked for with short names, under which both states are called `state`.
    """
    columns = [inputs[f"{view.view}__{STATE}"] for view in VIEWS.values()]
    if list(columns[0]) == [_FEAST_SAMPLE]:
        return _named({field.name: [_TYPED_PLACEHOLDERS[field.dtype]] for field in OUTPUTS} | {STATE_STATUS: [""]})
    if columns[0] is columns[1]:
        raise AmbiguousStateError(
            f"Under short names the states of both views of {ON_DEMAND_VIEW} have one name, and one would be lost.",
            hint="Call get_online_features with full_feature_names=True.",
        )
    rows = [_row(blobs, as_of_ms) for *blobs, as_of_ms in zip(*columns, inputs[AS_OF], strict=True)]
    names = [*(field.name for field in OUTPUTS), STATE_STATUS]
    return _named({name: [row[name] for row in rows] for name in names})


def _row(blobs: Sequence[bytes | None], as_of_ms: int | None) -> dict[str, Any]:
    states: dict[str, TopicState | None] = {}
    unreadable = []
    for (topic, view), blob in zip(VIEWS.items(), blobs, strict=True):
        try:
            states[topic] = None if blob is None else decode(blob)
        except StateError:
            unreadable.append(view.view)
    if unreadable:
        return _unreadable(unreadable)
    try:
        return {**finalize(states, as_of_ms), STATE_STATUS: STATE_OK}
    except StateError:  # a state of another topic
        return _unreadable([view.view for view in VIEWS.values()])


def _unreadable(views: Sequence[str]) -> dict[str, Any]:
    return {**dict.fromkeys(field.name for field in OUTPUTS), STATE_STATUS: f"unreadable: {', '.join(views)}"}


def _named(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    full = {f"{ON_DEMAND_VIEW}__{name}": _typed(column) for name, column in columns.items()}
    return {**columns, **full}


def _typed(column: list[Any]) -> list[Any]:
    if any(value or not isinstance(value, list | None) for value in column):
        return column
    return [None] * len(column)
