"""What Feast serves: one view per topic, and the view over both that turns states into features.

Everything here derives from `features.catalog`. `feast -c feature_repo apply` imports this file by itself.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Bytes, Float64, Int64, String
from feast.value_type import ValueType

from config.definition import versioned
from feature_repo.lake_table import LakeTable
from feature_repo.layout import JOIN_KEY, STATE
from feature_repo.on_demand import AS_OF, OUTPUTS, STATE_STATUS
from features.catalog import ON_DEMAND_VIEW, READ_REQUEST, VIEWS, View
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC

_DTYPES = {"int": Int64, "float": Float64, "bool": Bool, "strings": Array(String)}

user = Entity(
    name="user", join_keys=[JOIN_KEY], value_type=ValueType.STRING, description="A visitor or customer of the shop."
)


def _push_source(view: View) -> PushSource:
    table = LakeTable(
        name=f"{view.view}_log",
        table=versioned("feature_log"),
        timestamp_field="event_timestamp",
        description=f"Each state pushed to {view.view}; event_timestamp is when it became readable (servable_ms).",
    )
    return PushSource(name=view.push_source, batch_source=table, description=f"States of {view.topic}.")


def _state_view(view: View, source: PushSource) -> FeatureView:
    return FeatureView(
        name=view.view,
        entities=[user],
        # Feast ignores a ttl online; freshness is told by serving.reader
        ttl=timedelta(0),
        schema=[Field(name=JOIN_KEY, dtype=String), Field(name=STATE, dtype=Bytes)],
        source=source,
        online=True,
        description=f"One state per user: a fold over {view.topic} (docs/reference/state.md).",
    )


user_clicks_push = _push_source(VIEWS[CLICKS_TOPIC])
user_carts_push = _push_source(VIEWS[CARTS_TOPIC])
user_clicks = _state_view(VIEWS[CLICKS_TOPIC], user_clicks_push)
user_carts = _state_view(VIEWS[CARTS_TOPIC], user_carts_push)

read_request = RequestSource(
    name=READ_REQUEST,
    schema=[Field(name=AS_OF, dtype=Int64)],
    description="The instant to answer for, milliseconds UTC; null for the newest event time.",
)


@on_demand_feature_view(
    name=ON_DEMAND_VIEW,
    sources=[user_clicks, user_carts, read_request],
    # without descriptions: Feast compares these fields with those that it infers, and wants them equal
    schema=[
        *(Field(name=output.name, dtype=_DTYPES[output.dtype]) for output in OUTPUTS),
        Field(name=STATE_STATUS, dtype=String),
    ],
    mode="python",
    description="The features of a user's session and recent past, over both topics.",
)
def session_features(inputs: dict[str, list]) -> dict[str, list]:  # type: ignore[type-arg]
    """Finalize the states of each row; Feast stores this source, so it imports what it needs by itself."""
    from feature_repo.on_demand import session_features as compute

    return compute(inputs)


session_features_service = FeatureService(
    name=ON_DEMAND_VIEW,
    # the states too: their timestamps and versions tell freshness
    features=[session_features, user_clicks, user_carts],
    description="Features with what tells their freshness. Read with full_feature_names=True.",
)
