"""Which version of the features' definitions this code computes, and the names of what each version has for itself.

Two versions may run side by side on one Kafka, one Redis, one lake: each has its own views, push sources, fences,
consumer group, and tables of states. The names of version 1 have no suffix; they are those of the first release.
Events and dead letters are shared.
"""

from typing import Final

DEFINITION_VERSION: Final = 1
# those that may be in the same Redis and lake, and hold what is known of a user: up to one that is being rolled out
VERSIONS_BESIDE: Final = tuple(range(1, DEFINITION_VERSION + 2))


def versioned(name: str, version: int = DEFINITION_VERSION, *, joint: str = "_") -> str:
    """Return the name that a definition version uses for what the others must not share: `name`, or `name_v2`.

    Again is harmless: a name that has this suffix is returned as it is.
    """
    suffix = "" if version == 1 else f"{joint}v{version}"
    return name if name.endswith(suffix) else f"{name}{suffix}"
