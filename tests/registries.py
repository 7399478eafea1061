"""A Feast registry that holds the definitions, without a Redis: for tests that read the lake through Feast."""

from typing import Any

from config.settings import Settings
from feature_repo import load_feast


def store_without_redis(settings: Settings) -> Any:
    """Apply the definitions to the registry of the settings alone, and open the feature store."""
    load_feast()
    from feast import Project

    from feature_repo import definitions
    from feature_repo.opening import open_feature_store

    store = open_feature_store(settings)
    registry, project = store.registry, store.project
    registry.apply_project(Project(name=project), commit=False)
    registry.apply_entity(definitions.user, project, commit=False)
    for source in (definitions.user_clicks_push, definitions.user_carts_push):
        registry.apply_data_source(source, project, commit=False)
        registry.apply_data_source(source.batch_source, project, commit=False)
    for view in (definitions.user_clicks, definitions.user_carts, definitions.session_features):
        registry.apply_feature_view(view, project, commit=False)
    registry.apply_feature_service(definitions.session_features_service, project, commit=True)
    return store
