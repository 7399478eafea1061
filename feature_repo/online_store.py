"""The online store: Feast's Redis store, whose writes are compared with what they were built from.

Same keys and fields as the stock store, so that stock `get_online_features` reads it unchanged. The stock write reads,
then writes, and drops rows of equal timestamp; this one is atomic per row and never drops one silently (DESIGN
section 5).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from pydantic import Field, PrivateAttr, SecretStr, model_validator

from feature_repo.addresses import process_addresses
from feature_repo.connections import RedisConnections
from feature_repo.errors import OnlineStoreError, StateBytesError
from feature_repo.fence import fence_key
from feature_repo.layout import (
    STATE,
    KeyTemplate,
    feature_field,
    frame_state,
    frame_timestamp,
    unframe_state,
    unframe_timestamp,
    view_fields,
)
from feature_repo.outcomes import report_outcomes
from feature_repo.scripts import Row, RowScript
from feature_repo.states import StoredState
from features.catalog import VIEWS
from features.state import TRAILER_BYTES
from features.versioning import VersionConflictError, WriteOutcome

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SCAN_COUNT = 1_000
_UNREADABLE = "U"
_OUTCOMES = {"W": WriteOutcome.WRITTEN, "A": WriteOutcome.ALREADY_INCLUDED, "C": WriteOutcome.CONFLICT}
_TOPICS_BY_VIEW = {view.view: topic for topic, view in VIEWS.items()}

# What Feast hands to a write: entity key, values, timestamp, created timestamp.
FeastRow = tuple[Any, Mapping[str, Any], datetime, datetime | None]


class ShopstreamOnlineStoreConfig(RedisOnlineStoreConfig):
    """The `online_store` section of feature_store.yaml; an address that is not named comes from the settings.

    What would lose states (expiry, unchecked writes) or bypass the checks (another client) cannot be chosen.
    """

    type: Literal["feature_repo.online_store.ShopstreamOnlineStore"] = "feature_repo.online_store.ShopstreamOnlineStore"
    redis_url: SecretStr = Field(SecretStr(""), description="redis://[user:password@]host:port/db")
    timeout_s: float = Field(0.0, ge=0, description="how long an answer may take; 0: as the settings say")
    redis_type: Literal["redis", "redis_cluster"] = "redis"
    client: Literal["redis"] = "redis"
    key_ttl_seconds: None = None
    skip_dedup: Literal[False] = False
    _project: str = PrivateAttr("")

    @model_validator(mode="after")
    def _fill_from_settings(self) -> "ShopstreamOnlineStoreConfig":
        if not self.redis_url.get_secret_value():
            self.redis_url = SecretStr(process_addresses().redis_url)
            self._project = process_addresses().project
        if not self.timeout_s:
            self.timeout_s = process_addresses().redis_timeout_s
        return self

    def check_project(self, project: str) -> None:
        """Refuse to apply to another project than the one that readers and workers of these settings use.

        Raises:
            OnlineStoreError: the address came from settings that name another project.
        """
        if self._project and self._project != project:
            raise OnlineStoreError(
                f"feature_store.yaml names the project {project}, but the settings name {self._project}.",
                hint="Set `project` in feature_store.yaml to it, or unset feast.project.",
            )


class ShopstreamOnlineStore(RedisOnlineStore):
    """Feast's Redis store with compare-and-set writes of states.

    A view whose one feature is `state` is written so; any other view as the stock store does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._connections: RedisConnections | None = None
        self._compare_and_set = RowScript(Path(__file__).with_name("compare_and_set.lua"))
        self._read_states = RowScript(Path(__file__).with_name("read_states.lua"))

    def connections(self, config: ShopstreamOnlineStoreConfig) -> RedisConnections:
        """Return the clients that this store uses.

        Raises:
            OnlineStoreError: no address is known.
        """
        if self._connections is None:
            url = config.redis_url.get_secret_value()
            if not url:
                raise OnlineStoreError(
                    "No address of Redis is known.",
                    hint="Start one with `shopstream stack up`, or set redis.url in shopstream.toml.",
                )
            cluster = config.redis_type == "redis_cluster"
            self._connections = RedisConnections(url, timeout_s=config.timeout_s, cluster=cluster)
        return self._connections

    def online_write_batch(
        self,
        config: Any,
        table: Any,
        data: Sequence[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write each state if it was built from the one that is stored; atomic per row, not per batch.

        Each row's outcome is told to `feature_repo.outcomes.record_outcomes`.

        Raises:
            VersionConflictError: names the users whose state was built from another; all other rows are written.
            StateBytesError: a row, or what is stored for it, is not a state; the first writes nothing at all.
            OnlineStoreError: Redis does not answer, or is full; the rows may be sent again as they are.
        """
        if not _holds_state(table):
            super().online_write_batch(config, table, data, progress)
            return
        write = _Write.of(config, table, data)
        answers = self._compare_and_set.run(self.connections(config.online_store), write.common, write.rows)
        write.conclude(answers, progress)

    async def online_write_batch_async(
        self,
        config: Any,
        table: Any,
        data: Sequence[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Do what `online_write_batch` does, on the running loop."""
        if not _holds_state(table):
            await super().online_write_batch_async(config, table, data, progress)
            return
        write = _Write.of(config, table, data)
        connections = self.connections(config.online_store)
        write.conclude(await self._compare_and_set.run_async(connections, write.common, write.rows), progress)

    async def read_states(self, config: Any, view: str, user_ids: Sequence[str]) -> dict[str, StoredState]:
        """Read the states of users in one round trip; who has none is absent.

        Raises:
            StateBytesError: what is stored for some of them is not a state.
            OnlineStoreError: Redis does not answer.
        """
        connections = self.connections(config.online_store)
        template, fields = KeyTemplate.of(config.project), view_fields(view)
        keys = [Row(template.key(user_id), ()) for user_id in user_ids]
        answers = await self._read_states.run_async(connections, (fields.state, fields.timestamp), keys)
        found = list(chain.from_iterable(answers))
        states: dict[str, StoredState] = {}
        unreadable = []
        for user_id, value, timestamp in zip(user_ids, found[::2], found[1::2], strict=True):
            if value is None:
                continue
            state = unframe_state(value)
            if state is None:
                unreadable.append(user_id)
            else:
                states[user_id] = StoredState(state, unframe_timestamp(timestamp))
        if unreadable:
            raise StateBytesError(view, tuple(unreadable), where="stored")
        return states

    def update(
        self,
        config: Any,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,  # noqa: FBT001 - Feast's signature
    ) -> None:
        """Remove the rows of views that are gone, and with them their fences: lost states must be noticed."""
        connections = self.connections(config.online_store)
        config.online_store.check_project(config.project)
        with connections.explained():
            super().update(config, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial)
            self._drop_fences(config, tables_to_delete)

    def teardown(self, config: Any, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        """Remove the rows and the fences of the project."""
        connections = self.connections(config.online_store)
        with connections.explained():
            super().teardown(config, tables, entities)
            self._drop_fences(config, tables)
        connections.close_blocking()

    def delete_table(self, config: Any, table: Any) -> None:
        """Remove a view's rows; those of the other views in the same hashes stay."""
        fields = [view_fields(table.name).timestamp, *(feature_field(table.name, f.name) for f in table.features)]
        self._for_each_key(config, lambda pipe, key: pipe.hdel(key, *fields))

    def delete_entity_values(self, config: Any, join_keys: list[str]) -> None:  # noqa: ARG002 - Feast's signature
        """Remove all rows of the project's users."""
        self._for_each_key(config, lambda pipe, key: pipe.delete(key))

    def _for_each_key(self, config: Any, command: Callable[[Any, bytes], Any]) -> None:
        # The stock store matches by the end of the key, and takes project `shop` to be part of `myshop`.
        template = KeyTemplate.of(config.project)
        client = self.connections(config.online_store).blocking()
        keys = (key for key in client.scan_iter(template.pattern, count=_SCAN_COUNT) if template.owns(key))
        while part := list(islice(keys, _SCAN_COUNT)):
            with client.pipeline(transaction=False) as pipe:
                for key in part:
                    command(pipe, key)
                pipe.execute()

    async def close(self) -> None:
        """Close the clients."""
        if self._connections is not None:
            await self._connections.close()

    def _drop_fences(self, config: Any, tables: Sequence[Any]) -> None:
        topics = [_TOPICS_BY_VIEW[table.name] for table in tables if table.name in _TOPICS_BY_VIEW]
        for topic in topics:
            self.connections(config.online_store).blocking().delete(fence_key(config.project, topic))

    # What follows is how the stock reads get their client, and where they meet Redis.

    def _get_client(self, online_store_config: ShopstreamOnlineStoreConfig) -> Any:
        return self.connections(online_store_config).blocking()

    async def _get_client_async(self, online_store_config: ShopstreamOnlineStoreConfig) -> Any:
        return self.connections(online_store_config).asynchronous()

    def _read_hash_fields(self, config: Any, commands: Any) -> Any:
        with self.connections(config.online_store).explained():
            return super()._read_hash_fields(config, commands)

    async def _read_features_per_fv_async(self, config: Any, *arguments: Any, **named: Any) -> None:
        with self.connections(config.online_store).explained():
            await super()._read_features_per_fv_async(config, *arguments, **named)


@dataclass(frozen=True, slots=True)
class _Write:
    """One batch on its way: the arguments of the script, and whose rows they are."""

    view: str
    users: list[str]
    common: tuple[bytes, bytes]
    rows: list[Row]

    @classmethod
    def of(cls, config: Any, table: Any, data: Sequence[FeastRow]) -> "_Write":
        template, fields = KeyTemplate.of(config.project), view_fields(table.name)
        users, rows, unreadable = [], [], []
        timestamps: dict[datetime, bytes] = {}  # a batch has few different ones
        for entity_key, values, timestamp, _ in data:
            user_id = entity_key.entity_values[0].string_val
            state = values[STATE].bytes_val
            if len(state) < TRAILER_BYTES:
                unreadable.append(user_id)
                continue
            framed = timestamps.get(timestamp)
            if framed is None:
                framed = timestamps[timestamp] = frame_timestamp(_milliseconds(timestamp))
            users.append(user_id)
            rows.append(Row(template.key(user_id), (frame_state(state), framed)))
        if unreadable:
            raise StateBytesError(table.name, tuple(unreadable), where="pushed")
        return cls(table.name, users, (fields.state, fields.timestamp), rows)

    def conclude(self, answers: Sequence[bytes], progress: Callable[[int], Any] | None) -> None:
        letters = b"".join(answers).decode()
        told = [(user, letter) for user, letter in zip(self.users, letters, strict=True)]
        report_outcomes({user: _OUTCOMES[letter] for user, letter in told if letter != _UNREADABLE})
        if progress:
            progress(len(told))
        if _UNREADABLE in letters:
            raise StateBytesError(self.view, _named(told, _UNREADABLE), where="stored")
        if "C" in letters:
            raise VersionConflictError(_named(told, "C"))


def _named(told: Sequence[tuple[str, str]], letter: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(user for user, found in told if found == letter))


def _holds_state(table: Any) -> bool:
    return [feature.name for feature in table.features] == [STATE]


def _milliseconds(timestamp: datetime) -> int:
    aware = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(milliseconds=1)
