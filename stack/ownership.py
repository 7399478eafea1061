"""Which services the stack runs, and which are the user's own."""

from collections.abc import Mapping
from typing import Any

from config.settings import Settings, setting_origins
from stack.embedded import EmbeddedStack
from stack.service import NAMES

_ADDRESS_KEYS = {"kafka.bootstrap_servers": "kafka", "registry.url": "registry", "redis.url": "redis"}
_USERS_ORIGINS = {"flag", "environment", "shopstream.toml"}


def embedded_services(settings: Settings, overrides: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Return those services whose address the user has not set in the file, the environment or by a flag.

    Args:
        overrides: the flags with which the settings were loaded.
    """
    own = {
        _ADDRESS_KEYS[setting.key]
        for setting in setting_origins(settings, overrides)
        if setting.key in _ADDRESS_KEYS and setting.origin in _USERS_ORIGINS and setting.value
    }
    return frozenset(NAMES) - own


def stack_of(settings: Settings, overrides: Mapping[str, Any] | None = None) -> EmbeddedStack:
    """Return the stack of these settings' home, which runs what the user does not provide."""
    return EmbeddedStack(settings.home, settings.cache_dir, embedded_services(settings, overrides))
