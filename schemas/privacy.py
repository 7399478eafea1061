"""Keyed hashes that stand for a user where the user must not be named.

Without the key nobody can compute them, nor confirm a guess; with it anybody can, in any language:

- the pseudonym of a user id is `psn_` and 32 hexadecimal digits: BLAKE2b of the id in UTF-8, 16 bytes, with the key;
- the subject of an erasure is the same hash of the pseudonym, personalised with `shopstream-erase`. It is another
  value, so that a record of an erasure does not bring back the pseudonym that was erased.
"""

import hashlib
from typing import Final, Self

import msgspec

from config.errors import SettingsError
from config.privacy import PrivacySettings
from schemas.dead_letter import DeadLetter, Reason

PSEUDONYM_PREFIX: Final = "psn_"
NOT_KEPT: Final = "What exactly is wrong is not kept: it may quote what identifies a user, and ids are pseudonymised."

# the words of these may quote what a record holds; all others name fields, numbers and offsets only
_QUOTING: Final = frozenset({Reason.INVALID_VALUE, Reason.UNDECODABLE})

_DIGEST_BYTES: Final = 16
_SUBJECT_PERSON: Final = b"shopstream-erase"
_KEY_ID_PERSON: Final = b"shopstream-keyid"
_KEY_ID_BYTES: Final = 8


class Pseudonyms:
    """Computes the hashes with one key.

    Args:
        key: 16 to 64 bytes.
    """

    def __init__(self, key: bytes) -> None:
        # copies of these are cheaper than to start with the key each time
        self._pseudonym = hashlib.blake2b(digest_size=_DIGEST_BYTES, key=key)
        self._subject = hashlib.blake2b(digest_size=_DIGEST_BYTES, key=key, person=_SUBJECT_PERSON)
        self.key_id = hashlib.blake2b(digest_size=_KEY_ID_BYTES, key=key, person=_KEY_ID_PERSON).hexdigest()

    @classmethod
    def with_key_of(cls, privacy: PrivacySettings) -> "Self | None":
        """Return those of the key in the settings, whether or not ids are replaced; None if there is no key."""
        key = privacy.key.get_secret_value().encode()
        return cls(key) if key else None

    @classmethod
    def in_use(cls, privacy: PrivacySettings) -> "Self | None":
        """Return those that stand in for user ids in every store; None if ids are kept as they are."""
        return cls.with_key_of(privacy) if privacy.pseudonymise else None

    @classmethod
    def required(cls, privacy: PrivacySettings) -> Self:
        """Return those of the key in the settings.

        Raises:
            SettingsError: there is no key.
        """
        found = cls.with_key_of(privacy)
        if found is None:
            raise SettingsError(
                "An erasure is noted under a keyed hash of the user, and privacy.key is not set.",
                hint="Set SHOPSTREAM_PRIVACY__KEY to 16 to 64 random characters, for the workers too, and keep it.",
            )
        return found

    def of(self, user_id: str) -> str:
        """Return the pseudonym of a user id."""
        hashed = self._pseudonym.copy()
        hashed.update(user_id.encode())
        return PSEUDONYM_PREFIX + hashed.hexdigest()

    def subject(self, user_id: str) -> str:
        """Return what an erasure of this user is noted under."""
        return self._subject_of(self.of(user_id))

    def subjects(self, stored_id: str) -> tuple[str, ...]:
        """Return what an erasure of a user may be noted under whose id is stored as `stored_id`: itself or a pseudonym.

        A store may hold both kinds, from before and after pseudonyms were switched on.
        """
        if stored_id.startswith(PSEUDONYM_PREFIX):
            return self._subject_of(stored_id), self.subject(stored_id)
        return (self.subject(stored_id),)

    def stored_ids(self, user_id: str) -> tuple[str, ...]:
        """Return the ids that a store may hold of a user."""
        return user_id, self.of(user_id)

    def _subject_of(self, pseudonym: str) -> str:
        hashed = self._subject.copy()
        hashed.update(pseudonym.encode())
        return hashed.hexdigest()


def without_quotes(letter: DeadLetter) -> DeadLetter:
    """Return a letter whose words quote nothing of its record; key and value are as they were."""
    return msgspec.structs.replace(letter, detail=NOT_KEPT) if letter.reason in _QUOTING else letter
