"""Errors of the settings.

ShopstreamError          root of every error a user may see; carries what to do next
├── SettingsError        a settings file, variable or flag cannot be used
└── AccessDeniedError    a service refuses us: trying again cannot help
"""


class ShopstreamError(Exception):
    """An expected failure: one clear sentence, and what to do about it.

    Args:
        message: what is wrong, and where.
        hint: what the reader can do next; empty if the message says it all.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class SettingsError(ShopstreamError):
    """A settings file, an environment variable or a flag holds something that cannot be used."""


class AccessDeniedError(ShopstreamError):
    """A service refuses our login, our certificate or our rights, or we its certificate: only a person can mend it."""
