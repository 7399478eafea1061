"""States that users got by a repair in event-time order: a history in log order goes on from them where live did."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from config.settings import Settings
from features.apply import fold
from features.state import TopicState, Trailer, decode, with_trailer
from replay.sources import EventSource, LakeSource
from schemas.event import Event
from schemas.privacy import Pseudonyms
from sinks.erasures import Tombstones, log_of, read_tombstones
from sinks.lake_reads import PartitionLog
from sinks.lake_root import Lake

_NOBODY: Final[Mapping[str, int]] = {}


class Corrections:
    """The repairs of a lane.

    Args:
        versions: of each partition, the users that were repaired so, and the version up to which it holds.
    """

    def __init__(
        self, source: EventSource, versions: Mapping[PartitionLog, Mapping[str, int]], tombstones: Tombstones
    ) -> None:
        self._source = source
        self._versions = versions
        self._tombstones = tombstones
        self._states: dict[PartitionLog, dict[str, bytes]] = {}

    @classmethod
    def of(
        cls, settings: Settings, lake: Lake, lane: Sequence[PartitionLog], users: Collection[str] | None
    ) -> "Corrections":
        """Read the repairs of a lane's users.

        Raises:
            LakeUnavailableError: a table cannot be read.
            SettingsError: the key of earlier erasures is not set.
        """
        source = LakeSource(lake)
        versions = {
            log: {user_id: version for user_id, version in source.corrected(log).items() if _is_of(user_id, users)}
            for log in lane
        }
        return cls(source, versions, read_tombstones(lake, Pseudonyms.with_key_of(settings.privacy)))

    def before(self, log: PartitionLog, user_id: str, offset: int, state: TopicState | None) -> TopicState | None:
        """Return the state that the event at `offset` came to: the repaired one, if it is the first after a repair.

        Raises:
            LakeUnavailableError: the lake cannot be read.
        """
        version = self._versions.get(log, _NOBODY).get(user_id)
        if version is None or offset < version or (state is not None and state.version > version):
            return state
        if log not in self._states:
            self._states[log] = self._folded(log)
        blob = self._states[log].get(user_id)
        return state if blob is None else decode(blob)

    def _folded(self, log: PartitionLog) -> dict[str, bytes]:
        """Fold the users in the order of their events' times, each up to the version of its repair."""
        versions = self._versions[log]
        erased_log = log_of(log.topic, log.log_epoch, log.partition)
        states: dict[str, bytes] = {}
        places: dict[str, int] = {}
        last_offsets: dict[str, int] = {}
        for piece in self._source.in_time_order(log, max(versions.values()), users=versions):
            logs: dict[str, list[tuple[int, Event]]] = {}
            for offset, event in piece:
                user_id = event.user_id
                if offset >= versions[user_id] or offset < self._tombstones.end_of(user_id, erased_log):
                    continue
                # the place in this order stands for the offset, so that none is taken for a redelivered one
                places[user_id] = places.get(user_id, 0) + 1
                last_offsets[user_id] = max(offset, last_offsets.get(user_id, 0))
                logs.setdefault(user_id, []).append((places[user_id], event))
            for user_id, entries in logs.items():
                states[user_id] = fold(states.get(user_id), entries).state
        return {
            user_id: with_trailer(state, Trailer(0, 0, last_offsets[user_id] + 1)) for user_id, state in states.items()
        }


def _is_of(user_id: str, users: Collection[str] | None) -> bool:
    return users is None or user_id in users
