"""Parity: live, Kafka and the lake give the same state and the same features, user by user, or the difference is told.

The three are one function over one log, so the content of a state must be the same to the last bit in all of them.
Live moves on meanwhile, and each sink by itself. So each user is compared at the version that the online store held
when it was read: the log is folded up to exactly that, after the lake has got there. A user who differs is looked at
again with what was repaired or erased since, and only told when it still differs.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from replay.parity_causes import explained
from replay.parity_content import ContentHash, sampled
from replay.parity_look import POLL_S, Look
from replay.parity_ports import LiveUser, LiveWay, ParityPlan, ParityPorts
from replay.parity_report import LIVE, Gap, GapCount, ParityReport, UserDifference, WayReport
from replay.parity_user import ComparedUser
from replay.parity_ways import LAKE

__all__ = ["LiveUser", "LiveWay", "ParityPlan", "ParityPorts", "ParityReport", "compare"]

LOOKS_MAX: Final = 3
EXPLAINED_MAX: Final = 10

Tell = Callable[[str], None]


def compare(ports: ParityPorts, plan: ParityPlan, tell: Tell) -> ParityReport:
    """Compare the ways. Memory grows with the users that are compared.

    Args:
        tell: hears what is being done, in words.

    Raises:
        LakeUnavailableError, BrokerUnavailableError, RegistryUnavailableError, OnlineStoreError: a service does not
            answer.
        SettingsError: users were erased under a key that is not at hand.
    """
    return _Parity(ports, plan, tell).run()


@dataclass(slots=True)
class _Tally:
    """What was compared so far."""

    users: int = 0
    states: int = 0
    values: int = 0
    by_way: Counter[str] = field(default_factory=Counter)
    gaps: Counter[tuple[str, str, int, Gap, str]] = field(default_factory=Counter)
    differing: dict[str, UserDifference] = field(default_factory=dict)


class _Parity:
    """One run."""

    def __init__(self, ports: ParityPorts, plan: ParityPlan, tell: Tell) -> None:
        self._ports = ports
        self._plan = plan
        self._tell = tell
        self._tally = _Tally()
        self._hashes = {way: ContentHash() for way in (LIVE, *(source.name for source in ports.sources))}

    def run(self) -> ParityReport:
        chosen = sampled(self._listed(), self._plan.users)
        self._tell(f"Comparing {len(chosen):,} users in {', '.join(self._hashes)}")
        again = self._look(chosen, everybody=self._plan.users is None, is_last=False)
        for number in range(1, LOOKS_MAX):
            if not again:
                break
            self._tell(f"{len(again):,} users are looked at again")
            self._ports.sleep(POLL_S)
            again = self._look(again, everybody=False, is_last=number == LOOKS_MAX - 1)
        return self._report()

    def _listed(self) -> Iterator[str]:
        yield from self._ports.live.users()
        for source in self._ports.sources:
            if source.name == LAKE:
                for topic in self._plan.topics:
                    for log in self._plan.logs(topic):
                        yield from source.counts(log)

    def _look(self, user_ids: Sequence[str], *, everybody: bool, is_last: bool) -> list[str]:
        """Compare users; return those who differ or could not be compared yet, unless this was the last time."""
        look = Look(self._ports, self._plan)
        for step in look.read(user_ids, everybody=everybody):
            self._tell(step)
        again = []
        explained_count = 0
        for user_id in look.users():
            held = {topic: look.held(topic, user_id) for topic in self._plan.topics}
            compared = ComparedUser(user_id, held, look.live.get(user_id), self._plan.instants_of)
            if (compared.differences or compared.is_behind) and not is_last:
                again.append(user_id)
                continue
            self._take(compared, look)
            if compared.differences:
                explained_count += 1
                is_shown = explained_count <= EXPLAINED_MAX
                self._tally.differing[user_id] = explained(self._ports, look, compared, is_shown=is_shown)
        return again

    def _take(self, compared: ComparedUser, look: Look) -> None:
        tally = self._tally
        tally.users += compared.state_count > 0
        tally.states += compared.state_count
        tally.values += compared.value_count
        for topic, way, state in compared.states():
            tally.by_way[way] += 1
            if compared.is_told_by_all:
                self._hashes[way].add_state(topic, compared.user_id, state)
        if compared.is_told_by_all:
            for way, by_feature in compared.features.items():
                self._hashes[way].add_values(compared.user_id, compared.instants, by_feature)
        for topic, way, gap in compared.gaps():
            log = look.log_of(topic, compared.user_id)
            partition = -1 if log is None else log.partition
            since = look.begins(way, log) if log is not None and gap is Gap.TOO_SHORT else ""
            tally.gaps[way, topic, partition, gap, since] += 1

    def _report(self) -> ParityReport:
        tally = self._tally
        ways = {
            way: WayReport(tally.by_way[way], hashes.total(), hashes.payload()) for way, hashes in self._hashes.items()
        }
        gaps = [
            GapCount(way, topic, partition, gap, count, since)
            for (way, topic, partition, gap, since), count in sorted(tally.gaps.items())
        ]
        differing = [tally.differing[user_id] for user_id in sorted(tally.differing)]
        return ParityReport(tally.users, tally.states, tally.values, ways, gaps, differing)
