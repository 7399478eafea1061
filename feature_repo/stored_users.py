"""Who has something stored in the online store."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from feature_repo.layout import KeyTemplate

if TYPE_CHECKING:
    from feature_repo.connections import RedisConnections

USERS_AT_ONCE: Final = 1_000


def stored_users(connections: "RedisConnections", template: KeyTemplate) -> Iterator[list[str]]:
    """Yield every user of a project, as stored, some at a time; blocking.

    Raises:
        OnlineStoreError: Redis does not answer.
    """
    with connections.explained():
        keys = connections.blocking().scan_iter(template.pattern, count=USERS_AT_ONCE)
        users = (template.user_of(key) for key in keys if template.owns(key))
        while part := list(islice(users, USERS_AT_ONCE)):
            yield part
