"""What `shopstream parity` reads, put together: the online store as serving reads it, Kafka and the lake."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Final

from config.settings import Settings
from feature_repo.erasing import ErasedStates
from feature_repo.fence import Fence, FenceStore
from feature_repo.opening import open_feature_store
from feature_repo.states import StateStore, StoredState
from features.catalog import VIEWS
from replay.kafka_source import KafkaSource
from replay.parity import LiveUser, LiveWay, ParityPorts
from replay.parity_content import InstantsOf, packed
from replay.parity_ways import letters_only
from replay.sources import LakeSource
from schemas.privacy import Pseudonyms
from schemas.registry import RegistryClient
from serving.errors import UnreadableStateError
from serving.reader import FeatureReader, UserFeatures
from sinks.lake_root import lake_of
from streams.erasures import KnownErasures

ROWS_AT_ONCE: Final = 100

Answer = tuple[UserFeatures, Mapping[str, bytes]]


class ServedLive:
    """The online store through the reader that serves models; implements `replay.parity_ports.LiveWay`."""

    def __init__(self, reader: FeatureReader, states: ErasedStates, fences: FenceStore) -> None:
        self._reader = reader
        self._states = states
        self._fences = fences

    def users(self) -> Iterable[str]:
        """Return every user who has a state."""
        for part in self._states.users():
            yield from part

    def fences(self, topic: str) -> Mapping[int, Fence]:
        """Return the fences of a topic by partition."""
        return self._fences.read_blocking(topic)

    def read(self, user_ids: Sequence[str], instants_of: InstantsOf) -> Mapping[str, LiveUser]:
        """Read users; all answers of one user are of the same states.

        Raises:
            OnlineStoreError: Redis does not answer.
        """
        found = {user_id: LiveUser({}) for user_id in user_ids}
        newest: dict[str, int] = {}
        for part in _parts(user_ids, ROWS_AT_ONCE):
            for user_id, answers in self._answers(found, [(user_id, (0,)) for user_id in part]):
                ((features, states),) = answers
                if states and features.as_of_ms is not None:
                    newest[user_id] = features.as_of_ms  # the past is raised to the newest event
        asked = [(user_id, instants_of(user_id, at_ms)) for user_id, at_ms in newest.items()]
        per_call = max(1, ROWS_AT_ONCE // max((len(instants) for _, instants in asked), default=1))
        for first in range(0, len(asked), per_call):
            some = asked[first : first + per_call]
            instants = dict(some)
            for user_id, answers in self._answers(found, some):
                values = packed([features.values for features, _ in answers])
                found[user_id] = LiveUser(answers[0][1], instants[user_id], values)
        return found

    def _answers(
        self, found: dict[str, LiveUser], asked: Sequence[tuple[str, tuple[int, ...]]]
    ) -> Iterator[tuple[str, list[Answer]]]:
        """Yield the answers of each user, one per instant; who cannot be read is noted in `found`."""
        rows = [(user_id, instant) for user_id, instants in asked for instant in instants]
        try:
            answers = self._reader.read_with_states([user for user, _ in rows], [instant for _, instant in rows])
        except UnreadableStateError as error:
            for user_id, status in error.status_by_user.items():
                found[user_id] = LiveUser({}, problem=status)
            rest = [one for one in asked if one[0] not in error.status_by_user]
            if rest:
                yield from self._answers(found, rest)
            return
        place = 0
        for user_id, instants in asked:
            yield user_id, list(answers[place : place + len(instants)])
            place += len(instants)


class StoredLive:
    """The states of the online store alone, without values: many times faster; implements the same.

    Args:
        load: loads the states of some users in a topic.
    """

    def __init__(
        self,
        load: Callable[[str, Sequence[str]], Mapping[str, StoredState]],
        states: ErasedStates,
        fences: FenceStore,
    ) -> None:
        self._load = load
        self._states = states
        self._fences = fences

    def users(self) -> Iterable[str]:
        """Return every user who has a state."""
        for part in self._states.users():
            yield from part

    def fences(self, topic: str) -> Mapping[int, Fence]:
        """Return the fences of a topic by partition."""
        return self._fences.read_blocking(topic)

    def read(self, user_ids: Sequence[str], instants_of: InstantsOf) -> Mapping[str, LiveUser]:
        """Read the states of users, for no instants."""
        del instants_of
        states: dict[str, dict[str, bytes]] = {user_id: {} for user_id in user_ids}
        for topic in VIEWS:
            for user_id, stored in self._load(topic, user_ids).items():
                states[user_id][topic] = stored.state
        return {user_id: LiveUser(found) for user_id, found in states.items()}


@contextmanager
def opened_parity(settings: Settings, *, of_states_only: bool = False) -> Iterator[ParityPorts]:
    """Open everything that parity reads.

    Args:
        of_states_only: compare no values, and with the lake alone.

    Raises:
        SettingsError: a service has no address.
        NotAppliedError: the definitions were never applied.
    """
    lake = lake_of(settings)
    store = open_feature_store(settings)
    fences = FenceStore.beside(store)
    states = ErasedStates(store)
    erasures = KnownErasures(lake, states, Pseudonyms.with_key_of(settings.privacy))
    with asyncio.Runner() as runner, closing(RegistryClient(settings.registry)) as registry:
        try:
            live: LiveWay
            if of_states_only:
                stored = StateStore(store)
                live = StoredLive(lambda topic, users: runner.run(stored.load(topic, users)), states, fences)
            else:
                # ids are told as they are stored, so none is made a pseudonym again
                reader = FeatureReader(store, fences, stale_after_ms=settings.serving.stale_after_ms)
                live = ServedLive(reader, states, fences)
            yield ParityPorts(
                live=live,
                sources=(LakeSource(lake),) if of_states_only else (KafkaSource(settings, registry), LakeSource(lake)),
                tombstones=lambda: runner.run(erasures.read()),
                letters_only=lambda log: letters_only(lake, log),
                tolerance_ms=settings.events.future_tolerance_ms,
                has_pseudonyms=settings.privacy.pseudonymise,
            )
        finally:
            runner.run(store.close())


def _parts(user_ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (user_ids[first : first + size] for first in range(0, len(user_ids), size))
