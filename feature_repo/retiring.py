"""Takes a definition version that nobody reads any more out of the online store and the Feast registry."""

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from config.definition import DEFINITION_VERSION
from config.settings import Settings
from feature_repo.errors import DefinitionVersionError
from feature_repo.fence import fence_key
from feature_repo.layout import KeyTemplate, view_fields
from features.catalog import views_of

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.registry_store import SqliteRegistryStore

_KEYS_AT_ONCE: Final = 1_000


class Retired(NamedTuple):
    """What was removed.

    Attributes:
        state_count: states of users, over both topics.
    """

    version: int
    state_count: int


def applied_versions(settings: Settings) -> list[int]:
    """Return the definition versions that were applied to the settings' project, ascending.

    Raises:
        RegistryError: the Feast registry cannot be read.
    """
    from feature_repo.opening import open_feature_store

    return _registry(open_feature_store(settings)).stored_versions(settings.feast.project)


def check_retirable(version: int, applied: Sequence[int]) -> None:
    """Check that a version can be retired by this code.

    Raises:
        DefinitionVersionError: it is this code's own, or was never applied.
    """
    if version == DEFINITION_VERSION:
        raise DefinitionVersionError(
            f"Definition version {version} is the one of this code.",
            hint="Retire it with the code of the version that took over.",
        )
    if version not in applied:
        known = ", ".join(map(str, applied)) or "none"
        raise DefinitionVersionError(
            f"There is no definition version {version} in the Feast registry; there {_are(applied)} {known}.",
            hint="It was retired already, or applied to another registry (feast.registry_path).",
        )


def retire_version(settings: Settings, version: int) -> Retired:
    """Remove a version's states and fences from Redis and its definitions from the registry; safe to repeat.

    Its tables in the lake stay. No worker and no reader of it may run.

    Raises:
        DefinitionVersionError: the version is this code's own, or was never applied.
        OnlineStoreError, RegistryError: it was done in part; do it again.
    """
    from feature_repo.opening import open_feature_store

    store = open_feature_store(settings)
    registry = _registry(store)
    check_retirable(version, registry.stored_versions(store.project))
    count = _delete_states(store, version)
    registry.retire(store.project, version)
    return Retired(version, count)


def _delete_states(store: "FeatureStore", version: int) -> int:
    connections = store.provider.online_store.connections(store.config.online_store)
    template = KeyTemplate.of(store.project)
    fields = [view_fields(view.view) for view in views_of(version).values()]
    count = 0
    try:
        with connections.explained():
            client = connections.blocking()
            keys = (key for key in client.scan_iter(template.pattern, count=_KEYS_AT_ONCE) if template.owns(key))
            while part := list(islice(keys, _KEYS_AT_ONCE)):
                with client.pipeline(transaction=False) as pipe:
                    for key in part:
                        pipe.hdel(key, *(each.state for each in fields))
                        pipe.hdel(key, *(each.timestamp for each in fields))
                    count += sum(pipe.execute()[::2])
            for topic in views_of(version):
                client.delete(fence_key(store.project, topic, version))
    finally:
        connections.close_blocking()
    return count


def _registry(store: "FeatureStore") -> "SqliteRegistryStore":
    from feature_repo.registry_store import SqliteRegistryStore

    return SqliteRegistryStore(store.config.registry, None)


def _are(found: Sequence[int]) -> str:
    return "are" if len(found) > 1 else "is"
