"""Which definitions of a Feast registry belong to which definition version.

Feast's `apply` deletes from the registry what the repository at hand does not define, and its rows with it. So that one
version's `apply` leaves another's alone, a process sees in the registry its own version's definitions and what belongs
to none, and what it writes replaces only these (feature_repo.registry_store).
"""

import re
from collections.abc import Callable
from typing import Any, Final

from config.definition import DEFINITION_VERSION

_NAMES: Final = re.compile(r"(?:user_clicks|user_carts|session_features)(?:_push|_request)?(?:_v(\d+))?(?:_log)?")
_NAMED_IN_SPEC: Final = ("feature_views", "on_demand_feature_views", "feature_services")


def version_of(name: str) -> int | None:
    """Return the definition version that a definition's name belongs to; None for what is common, or not ours."""
    found = _NAMES.fullmatch(name)
    return None if found is None else int(found[1] or 1)


def keep(registry: Any, wanted: Callable[[str, int | None], bool]) -> None:
    """Remove from a registry's message all definitions but those of which (project, version) is wanted."""
    for field in _NAMED_IN_SPEC:
        _keep(getattr(registry, field), lambda each: wanted(each.spec.project, version_of(each.spec.name)))
    _keep(registry.data_sources, lambda each: wanted(each.project, version_of(each.name)))
    history = registry.feature_view_version_history.records
    _keep(history, lambda each: wanted(each.project_id, version_of(each.feature_view_name)))


def without_others(registry: Any) -> Any:
    """Return a registry's message without the definitions of other versions."""
    own = type(registry).FromString(registry.SerializeToString())
    keep(own, lambda _, version: version in {None, DEFINITION_VERSION})
    return own


def with_others_of(registry: Any, stored: Any) -> Any:
    """Return a registry's message with the definitions of other versions that the stored one holds."""
    merged = without_others(registry)
    others = type(stored).FromString(stored.SerializeToString())
    keep(others, lambda _, version: version not in {None, DEFINITION_VERSION})
    for field in (*_NAMED_IN_SPEC, "data_sources"):
        getattr(merged, field).extend(getattr(others, field))
    merged.feature_view_version_history.records.extend(others.feature_view_version_history.records)
    return merged


def versions_in(registry: Any, project: str) -> list[int]:
    """Return the definition versions that a project has views of, ascending."""
    found = {version_of(view.spec.name) for view in registry.feature_views if view.spec.project == project}
    return sorted(version for version in found if version is not None)


def _keep(definitions: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [each for each in definitions if wanted(each)]
    del definitions[:]
    definitions.extend(kept)
