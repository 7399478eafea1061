"""One user, compared in all ways: the states of each topic, then every feature at the instants."""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from features.catalog import FEATURES
from features.state import decode, read_trailer
from replay.parity_content import InstantsOf, Values, canonical, content_of, encoded, unpacked, values_at
from replay.parity_ports import UNREADABLE, Held, LiveUser
from replay.parity_report import LIVE, Difference, Gap

_HASH_SHOWN = 6


class ComparedUser:
    """The comparison of one user.

    Args:
        held: by topic and way.
        live: what readers are given; None when they were not asked.

    Attributes:
        differences: states first.
        instants: of the values.
        features: by way, the encoded values of each feature, one per instant.
        state_count: topics of which two ways at least can tell.
        value_count: values of which two ways at least can tell.
    """

    def __init__(
        self, user_id: str, held: Mapping[str, Mapping[str, Held]], live: LiveUser | None, instants_of: InstantsOf
    ) -> None:
        self.user_id = user_id
        self.differences: list[Difference] = []
        self.state_count = 0
        self.instants: tuple[int, ...] = ()
        self.features: dict[str, dict[str, list[bytes]]] = {}
        self._held = held
        for topic, ways in held.items():
            self._compare_states(topic, {way: one.state for way, one in ways.items() if one.gap is None})
        self._compare_features(live, instants_of)

    @property
    def value_count(self) -> int:
        """How many values of features two ways at least can tell of."""
        return len(FEATURES) * len(self.instants) if len(self.features) > 1 else 0

    @property
    def is_behind(self) -> bool:
        """Tell whether a way has not reached what the online store holds."""
        return any(gap is Gap.BEHIND for _, _, gap in self.gaps())

    @property
    def is_told_by_all(self) -> bool:
        """Tell whether every way can tell of every topic."""
        return not any(True for _ in self.gaps())

    def gaps(self) -> Iterator[tuple[str, str, Gap]]:
        """Yield (topic, way, why) of what a way cannot tell of."""
        for topic, ways in self._held.items():
            for way, held in ways.items():
                if held.gap is not None:
                    yield topic, way, held.gap

    def states(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (topic, way, state) of all that can be told and read."""
        for topic, ways in self._held.items():
            for way, held in ways.items():
                if held.gap is None and held.state:
                    yield topic, way, held.state

    def state_of(self, topic: str, way: str) -> bytes | None:
        """Return the state that a way holds; None where it holds none, or cannot tell."""
        return self._held[topic][way].state or None

    def agreeing(self) -> list[tuple[str, ...]]:
        """Return the ways that give the same, one group after the other; ways with a gap are left out."""
        groups: dict[Any, list[str]] = {}
        for way in self._full_ways():
            states = tuple(_content(ways[way].state) for ways in self._held.values())
            values = tuple(map(tuple, self.features.get(way, {}).values()))
            groups.setdefault((states, values), []).append(way)
        return [tuple(group) for group in groups.values()]

    def _compare_states(self, topic: str, states: Mapping[str, bytes | None]) -> None:
        contents = {way: _content(state) for way, state in states.items()}
        if len(contents) < 2 or not any(content is not None for content in contents.values()):
            return
        self.state_count += 1
        if len(set(contents.values())) > 1:
            shown = {way: _shown_state(state) for way, state in states.items()}
            self.differences.append(Difference(topic, None, None, shown))

    def _full_ways(self) -> list[str]:
        ways = next(iter(self._held.values()))
        return [way for way in ways if all(topic[way].gap is None for topic in self._held.values())]

    def _compare_features(self, live: LiveUser | None, instants_of: InstantsOf) -> None:
        by_way = {way: {topic: ways[way].state for topic, ways in self._held.items()} for way in self._full_ways()}
        readable = {
            way: {topic: state for topic, state in states.items() if state}
            for way, states in by_way.items()
            if UNREADABLE not in states.values() and any(states.values())
        }
        if len(readable) < 2:
            return
        self.instants = (
            live.instants
            if live is not None and LIVE in readable
            else instants_of(
                self.user_id, max(_newest_ms(state) for states in readable.values() for state in states.values())
            )
        )
        if not self.instants:
            return
        computed: dict[Any, Sequence[Values]] = {}
        values: dict[str, Sequence[Values]] = {}
        for way, states in readable.items():
            if way == LIVE and live is not None:
                values[way] = unpacked(live.values)
                continue
            key = tuple(sorted((topic, _content(state)) for topic, state in states.items()))
            if key not in computed:
                computed[key] = values_at(states, self.instants)
            values[way] = computed[key]
        self._compare_values(values)

    def _compare_values(self, values: Mapping[str, Sequence[Values]]) -> None:
        done: dict[int, dict[str, list[bytes]]] = {}
        for way, rows in values.items():
            if id(rows) not in done:
                done[id(rows)] = {f.name: [encoded(f.name, row[f.name]) for row in rows] for f in FEATURES}
            self.features[way] = done[id(rows)]
        ways = list(values)
        for feature in FEATURES:
            name = feature.name
            first = self.features[ways[0]][name]
            if all(self.features[way][name] == first for way in ways[1:]):
                continue
            place = next(n for n in range(len(first)) if len({self.features[way][name][n] for way in ways}) > 1)
            shown = {way: canonical(name, values[way][place][name]) for way in ways}
            self.differences.append(Difference(None, name, self.instants[place], shown))


def _content(state: bytes | None) -> bytes | None:
    return content_of(state) if state else state


def _newest_ms(state: bytes) -> int:
    return decode(state).newest_ms


def _shown_state(state: bytes | None) -> str:
    if state is None:
        return "none"
    if state == UNREADABLE:
        return "bytes that are no state"
    return f"version {read_trailer(state).version}, {blake2b(content_of(state), digest_size=_HASH_SHOWN).hexdigest()}"
