"""Opens the feature store with the settings of the process, and applies the definitions."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from config.settings import Settings
from feature_repo import load_feast
from feature_repo.addresses import lake_address
from feature_repo.errors import NotAppliedError, RegistryConflictError
from features.catalog import ON_DEMAND_VIEW

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

logger = logging.getLogger(__name__)

_YAML = Path(__file__).with_name("feature_store.yaml")
_APPLY_ATTEMPTS = 5


def open_feature_store(settings: Settings) -> "FeatureStore":
    """Open the feature store: feature_store.yaml, with the settings' project, addresses and paths.

    Opening connects to nothing. Close it with `await store.close()`.

    Raises:
        SettingsError: no Redis is set.
    """
    feast = load_feast()
    store: FeatureStore = feast.FeatureStore(config=_repo_config(settings))
    return store


def apply_definitions(settings: Settings) -> None:
    """Apply the definitions, as `feast -c feature_repo apply` does; again is harmless, and so is another process.

    What Feast prints is logged at debug level.

    Raises:
        SettingsError: no Redis is set.
        OnlineStoreError: Redis does not answer.
        RegistryError: the registry cannot be written.
    """
    for attempt in range(1, _APPLY_ATTEMPTS + 1):
        try:
            _apply_once(open_feature_store(settings))
        except RegistryConflictError:
            if attempt == _APPLY_ATTEMPTS:
                raise
        else:
            return


def feature_service(store: "FeatureStore") -> "FeatureService":
    """Return the service that readers ask for; hold on to it, looking it up costs milliseconds.

    Raises:
        NotAppliedError: the definitions were never applied to this project.
    """
    from feast.errors import FeatureServiceNotFoundException

    try:
        service: FeatureService = store.get_feature_service(ON_DEMAND_VIEW)
    except FeatureServiceNotFoundException as error:
        raise NotAppliedError(
            f"The Feast project {store.project} does not define {ON_DEMAND_VIEW} yet.",
            hint="Run `feast -c feature_repo apply`; `shopstream worker` and `shopstream demo` do it too.",
        ) from error
    return service


def _apply_once(store: "FeatureStore") -> None:
    from feast.repo_operations import apply_total_with_repo_instance

    online_store = store.provider.online_store
    connections = online_store.connections(store.config.online_store)
    try:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            # on-demand views: theirs is only the offline use at scale
            warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
            apply_total_with_repo_instance(
                store, store.project, store.registry, _repo_contents(store.project), skip_source_validation=False
            )
        logger.debug("feast apply: %s", said.getvalue().strip())
    finally:
        connections.close_blocking()


def _repo_contents(project: str) -> Any:
    from feast import Project
    from feast.feature_view import DUMMY_ENTITY
    from feast.repo_contents import RepoContents

    from feature_repo import definitions

    sources = [definitions.user_clicks_push, definitions.user_carts_push]
    return RepoContents(
        projects=[Project(name=project)],
        data_sources=[*sources, *(source.batch_source for source in sources), definitions.read_request],
        feature_views=[definitions.user_clicks, definitions.user_carts],
        on_demand_feature_views=[definitions.session_features],
        stream_feature_views=[],
        label_views=[],
        entities=[definitions.user, DUMMY_ENTITY],
        feature_services=[definitions.session_features_service],
        permissions=[],
    )


def _repo_config(settings: Settings) -> Any:
    from feast import RepoConfig

    settings.require("redis")
    raw = yaml.safe_load(_YAML.read_text())
    raw["project"] = settings.feast.project
    raw["registry"]["path"] = str(settings.feast_registry_path)
    raw["online_store"] |= {"redis_url": settings.redis.connection_url, "timeout_s": settings.redis.timeout_s}
    raw["offline_store"] |= {"lake": lake_address(settings), "storage_options": dict(settings.lake.storage_options)}
    config = RepoConfig(**raw)
    config.repo_path = settings.home.absolute()  # Feast's own sources would be below it; ours are in the lake
    return config
