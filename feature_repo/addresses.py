"""Where the online store and the registry are, for a process that Feast's own command started.

`feature_store.yaml` names no host, port or path, so that it is the same for everybody. Our own processes hand the
addresses over (`feature_repo.opening`); `feast -c feature_repo apply` typed by hand finds them here, in the settings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from config.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Addresses:
    """What Feast must know of the settings.

    Attributes:
        redis_url: may hold a password; empty when no Redis is known.
        registry_path: SQLite file, absolute.
        lake: folder of the Delta tables, or its address in an object store.
        lake_options: what delta-rs needs to reach it; may hold secrets.
    """

    project: str
    redis_url: str
    redis_timeout_s: float
    registry_path: Path
    lake: str
    lake_options: Mapping[str, str]


@cache
def process_addresses() -> Addresses:
    """Read the settings once, in the folder where the process was started.

    Feast's command changes the working directory before it opens the registry, and with it what a relative path
    means; its check of the configuration, which ends up here, comes first.

    Raises:
        SettingsError: the settings cannot be used.
    """
    settings = load_settings()
    return Addresses(
        project=settings.feast.project,
        redis_url=settings.redis.connection_url.get_secret_value(),
        redis_timeout_s=settings.redis.timeout_s,
        registry_path=settings.feast_registry_path,
        lake=lake_address(settings),
        lake_options=settings.lake.storage_options,
    )


def lake_address(settings: Settings) -> str:
    """Return the lake's folder, absolute, or its address in an object store."""
    return settings.lake.s3_address or str(settings.lake_path)
