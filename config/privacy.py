"""The settings of privacy: whether user ids are replaced by pseudonyms, and the key that makes them."""

from typing import Final, Self

from pydantic import Field, SecretStr, model_validator

from config.security import contradiction
from config.services import Section

KEY_BYTES_MIN: Final = 16
KEY_BYTES_MAX: Final = 64  # what BLAKE2b takes


class PrivacySettings(Section):
    """Pseudonyms of users, and their erasure."""

    pseudonymise: bool = Field(
        default=False, description="replace each user id by its keyed hash as soon as it is decoded"
    )
    key: SecretStr = Field(
        SecretStr(""), description="key of these hashes, 16 to 64 bytes; erasures need it too. Never change it"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        size = len(self.key.get_secret_value().encode())
        if self.pseudonymise and not size:
            raise contradiction("privacy.pseudonymise is on, but privacy.key is not set")
        if size and not KEY_BYTES_MIN <= size <= KEY_BYTES_MAX:
            raise contradiction(f"privacy.key has {size} bytes; it must have {KEY_BYTES_MIN} to {KEY_BYTES_MAX}")
        return self
