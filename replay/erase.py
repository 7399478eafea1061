"""Erases a user: from the online store, from every table of the lake, and from whatever would bring it back.

In this order, each step such that it may be repeated:

1. a tombstone: where the user's logs end, under a keyed hash. From here on no start of a worker and no replay takes
   anything of the user from below that;
2. wait until running workers have written everything below it: what is in their memory cannot be erased;
3. the states, with a mark of how far they had come. What came in since the request is erased with them, so the
   tombstone moves there;
4. the rows of every table, found by user and deleted by position, or by time where a table is of no log; then all
   older versions of the tables; the rows of training sets; and the user's factors in models;
5. what is left in Kafka is told, with the time when it is gone.

A run that was killed is finished by the next one: it finds the request, which names nobody but has the user's hash.
"""

import dataclasses
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from feature_repo.erasing import ANY_VERSION, Mark
from replay.erasure_ports import Ports
from replay.errors import StillHaltedError
from replay.last_copies import LastCopy
from sinks.derived_tables import SERVED
from sinks.erasing import TableEraser, TableErasure, erasable_tables, logs_of_users
from sinks.erasures import (
    CUT,
    ELSEWHERE,
    FINISHED,
    LETTER,
    REQUESTED,
    ErasedLog,
    ErasureRow,
    Tombstones,
    log_of,
    note_erasures,
    read_erasures,
    tombstones_of,
)
from sinks.lake_root import lake_of, local_folder
from sinks.letter_search import letters_naming
from sinks.maintenance import exclusive

WAIT_S: Final = 120.0
ANSWERS_SETTLED_MS: Final = 2_000

_ENDLESS: Final = 2**62  # of a topic that is gone, everything


@dataclass(frozen=True, slots=True)
class SetErasure:
    """What became of one training set.

    Attributes:
        rows: that were erased from it.
        outcome: `clean`: nobody erased was in it; `written anew`; `gone`: nothing lies there any more, on this machine.
    """

    path: str
    rows: int
    outcome: str


@dataclass(frozen=True, slots=True)
class ModelErasure:
    """What became of one model.

    Attributes:
        model: its version; `queued` and its training's id, before it has one.
        users: whose factors were erased from it.
        outcome: `clean`: nobody erased was in it; `written anew`; `gone`: its files are not on this machine.
    """

    model: str
    users: int
    outcome: str


EraseSets = Callable[[Tombstones], Sequence[SetErasure]]
EraseModels = Callable[[Tombstones], Sequence[ModelErasure]]


def no_models(_tombstones: Tombstones) -> Sequence[ModelErasure]:
    """Look at no model."""
    return ()


def no_sets(_tombstones: Tombstones) -> Sequence[SetErasure]:
    """Look at no training set."""
    return ()


@dataclass(frozen=True, slots=True)
class ErasurePlan:
    """What an erasure would do.

    Attributes:
        workers_run: whether it has to wait for workers.
        unread: records that they have not committed.
        versions: of the states in the online store, by topic.
        rows: to be deleted, by table; training sets are not looked into.
        is_resumed: whether an erasure of this user was begun and not finished.
    """

    workers_run: bool
    unread: int
    versions: Mapping[str, int]
    rows: Mapping[str, int]
    is_resumed: bool
    last_copies: Sequence[LastCopy]


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What an erasure did.

    Attributes:
        request_id: what its rows in `erasures` have in common; empty for the repetition of earlier ones.
        unread: records before the request that nobody has read, because no worker runs; they are dropped when one does.
        versions: of the states that were erased from the online store, by topic.
        letters: dead letters that named the user elsewhere than in their key.
        sets: what became of each training set.
        models: what became of each model.
    """

    versions: Mapping[str, int]
    tables: Sequence[TableErasure]
    last_copies: Sequence[LastCopy]
    request_id: str = ""
    is_resumed: bool = False
    unread: int = 0
    letters: int = 0
    sets: Sequence[SetErasure] = ()
    models: Sequence[ModelErasure] = ()


def plan_erasure(ports: Ports, user_id: str) -> ErasurePlan:
    """Tell what an erasure would do; changes nothing.

    Raises:
        SettingsError: earlier erasures were noted under another key.
        LakeUnavailableError, OnlineStoreError, BrokerUnavailableError: something does not answer.
    """
    erasure = _Erasure(ports, user_id)
    everything = Tombstones(pseudonyms=ports.pseudonyms, noted_ms={erasure.subject: _ENDLESS}).with_ends(
        (log, erasure.subject, _ENDLESS) for log in {*ports.logs, *(log_of(*found) for found in erasure.lake_logs())}
    )
    lake = _folder(ports)
    rows = {table.name: TableEraser(lake, table, everything, erasure.ids).count() for table in erasable_tables()}
    letters = letters_naming(lake, user_id)
    rows["dead_letters"] = max(rows["dead_letters"], len(letters))
    return ErasurePlan(
        workers_run=ports.watch.is_live(),
        unread=sum(ports.watch.unread(ports.watch.ends()).values()),
        versions=erasure.stored_versions(),
        rows=rows,
        is_resumed=bool(erasure.open_rows()),
        last_copies=ports.copies(),
    )


def erase_user(
    ports: Ports,
    user_id: str,
    *,
    wait_s: float = WAIT_S,
    erase_sets: EraseSets = no_sets,
    erase_models: EraseModels = no_models,
) -> ErasureReport:
    """Erase a user; blocking. Repeating it after a failure or a kill finishes it.

    Args:
        erase_sets: erases what tombstones cover from the training sets that were made of the lake.
        erase_models: erases the users whom tombstones cover from the models that were trained on it.

    Raises:
        SettingsError: earlier erasures were noted under another key.
        LakeBusyError: other upkeep of the lake is under way.
        NotCommittedError: workers run, and did not come past the request in time.
        StillHaltedError: workers run, and cannot.
        LakeUnavailableError, OnlineStoreError, BrokerUnavailableError: something does not answer.
    """
    lake = _folder(ports)
    lake.mkdir(parents=True, exist_ok=True)
    with exclusive(lake):
        return _Erasure(ports, user_id).run(wait_s, erase_sets, erase_models)


class _Erasure:
    """One erasure of one user."""

    def __init__(self, ports: Ports, user_id: str) -> None:
        self._ports = ports
        self._lake = _folder(ports)
        self._user_id = user_id
        self.subject = ports.pseudonyms.subject(user_id)
        self.ids = ports.pseudonyms.stored_ids(user_id)
        self._request: list[ErasureRow] = []

    def run(self, wait_s: float, erase_sets: EraseSets, erase_models: EraseModels) -> ErasureReport:
        ports = self._ports
        self._request = self.open_rows()
        is_resumed = bool(self._request)
        if not is_resumed:
            self._note_request()
        ports.progress(f"1/5 the request is noted as {self._request[0].request_id}" + " (begun earlier)" * is_resumed)
        self._wait(wait_s)
        ports.progress("2/5 no worker has anything of the user left to write")
        versions = self._erase_states()
        gone_ms = ports.now_ms()
        unread = self._wait(wait_s)
        ports.progress(f"3/5 online store: {len(versions)} states erased")
        letters = self._note_letters()
        self._note_former_logs()
        self._wait_for_answers(gone_ms)
        tombstones = replace(self._tombstones(), noted_ms={self.subject: ports.now_ms()})
        tables = erase_tables(ports, tombstones, self.ids)
        sets, models = erase_sets(tombstones), erase_models(tombstones)
        ports.progress("4/5 the lake's tables, training sets and models are erased")
        self._erase_states_that_came_back()
        copies = ports.copies()
        self._note([self._request[0]._replace(step=FINISHED, noted_ms=ports.now_ms())])
        ports.progress("5/5 done")
        return ErasureReport(
            versions, tables, copies, self._request[0].request_id,
            is_resumed=is_resumed, unread=unread, letters=letters, sets=sets, models=models,
        )  # fmt: skip

    # -- the request -----------------------------------------------------------------------------------------------

    def open_rows(self) -> list[ErasureRow]:
        """Return the rows of an erasure of this user that was begun and not finished.

        Raises:
            SettingsError: earlier erasures were noted under another key.
        """
        rows = read_erasures(self._lake)
        tombstones_of(rows, self._ports.pseudonyms)
        own = [row for row in rows if row.subject == self.subject]
        finished = {row.request_id for row in own if row.step == FINISHED}
        return [row for row in own if row.request_id not in finished]

    def lake_logs(self) -> set[tuple[str, str, int]]:
        """Return topic, log epoch and partition of every log that the lake has rows of this user from."""
        found: set[tuple[str, str, int]] = set()
        for table in erasable_tables():
            found |= logs_of_users(self._lake, table, self.ids)
        return found

    def stored_versions(self) -> dict[str, int]:
        """Return the versions of the user's states."""
        return {topic: version for each in self.ids for topic, version in self._ports.states.versions(each).items()}

    def _note_request(self) -> None:
        ports = self._ports
        request_id = uuid.uuid4().hex[:12]
        own = {ports.own_log(topic, self._user_id) for topic in ports.topics}
        self._note(
            [
                self._row(request_id, REQUESTED if log in own else ELSEWHERE, log, end)
                for log, end in ports.watch.ends().items()
            ]
        )

    def _row(self, request_id: str, step: str, log: ErasedLog, offset: int, log_epoch: str = "") -> ErasureRow:
        ports = self._ports
        epoch = log_epoch or ports.topics[log.topic].log_epoch
        key_id = ports.pseudonyms.key_id
        return ErasureRow(
            request_id, step, self.subject, key_id, epoch, log.topic, log.partition, offset, ports.now_ms()
        )

    def _note(self, rows: Sequence[ErasureRow]) -> None:
        if rows:
            note_erasures(self._lake, rows)
            self._request.extend(rows)

    def _tombstones(self) -> Tombstones:
        return tombstones_of(self._request, self._ports.pseudonyms)

    def _wait(self, wait_s: float) -> int:
        tombstones = self._tombstones()
        ends = {log: tombstones.end_of(self._user_id, log) for log in self._ports.logs}
        behind = {log.topic for log in self._ports.watch.unread(ends)}
        halted = [topic for topic in self._ports.halted() if topic in behind]
        if halted and self._ports.watch.is_live():
            raise StillHaltedError(halted)
        return self._ports.watch.wait_past(ends, wait_s, self._ports.progress)

    def _wait_for_answers(self, gone_ms: int) -> None:
        """Wait until readers have written the answers that they gave while the states were there."""
        ports = self._ports
        if not (self._lake / SERVED.name).is_dir():
            return
        until_ms = gone_ms + ports.settings.serving.served_flush_interval_ms + ANSWERS_SETTLED_MS
        left_s = (until_ms - ports.now_ms()) / 1000
        if left_s > 0:
            ports.progress(f"waiting {left_s:.0f} s for answers that readers still hold in memory")
            time.sleep(left_s)

    # -- the states ------------------------------------------------------------------------------------------------

    def _erase_states(self) -> dict[str, int]:
        """Erase the states whatever their version, and move the tombstone to where they had come."""
        ports = self._ports
        limits = [self._mark(topic, ANY_VERSION) for topic in ports.topics]
        for each in self.ids:
            ports.states.erase(each, limits)
        marks = ports.states.marks_of(self.subject)  # also those of a run that was killed here
        tombstones = self._tombstones()
        request_id = self._request[0].request_id
        cuts = []
        for mark in marks:
            log = ErasedLog(mark.topic_id, mark.topic, mark.partition)
            if mark.version > tombstones.end_of(self._user_id, log):
                cuts.append(self._row(request_id, CUT, log, mark.version))
        self._note(cuts)
        ports.states.drop_marks(marks)
        return {mark.topic: mark.version for mark in marks}

    def _erase_states_that_came_back(self) -> None:
        """Erase states from before the tombstone that a repair wrote which had begun before it."""
        tombstones = self._tombstones()
        limits = [
            self._mark(topic, tombstones.end_of(self._user_id, self._ports.own_log(topic, self._user_id)))
            for topic in self._ports.topics
        ]
        for each in self.ids:
            self._ports.states.erase(each, limits)
        self._ports.states.drop_marks(self._ports.states.marks_of(self.subject))

    def _mark(self, topic: str, version: int) -> Mark:
        log = self._ports.own_log(topic, self._user_id)
        return Mark(self.subject, topic, log.topic_id, log.partition, version)

    # -- the lake --------------------------------------------------------------------------------------------------

    def _note_letters(self) -> int:
        """Note the letters that name the user elsewhere than in their key: only now can they be found."""
        tombstones = self._tombstones()
        places = [
            place
            for place in letters_naming(self._lake, self._user_id)
            if place.offset < tombstones.end_of(self._user_id, log_of(place.topic, place.log_epoch, place.partition))
        ]
        request_id = self._request[0].request_id
        self._note(
            [
                self._row(
                    request_id, LETTER, log_of(place.topic, place.log_epoch, place.partition), place.offset,
                    place.log_epoch,
                )
                for place in places
            ]
        )  # fmt: skip
        return len(places)

    def _note_former_logs(self) -> None:
        """Note logs of topics that were created again since: all that the lake has of them is erased."""
        known = set(self._ports.logs)
        request_id = self._request[0].request_id
        self._note(
            [
                self._row(request_id, ELSEWHERE, log_of(topic, epoch, partition), _ENDLESS, epoch)
                for topic, epoch, partition in sorted(self.lake_logs())
                if log_of(topic, epoch, partition) not in known
            ]
        )


def erase_tables(ports: Ports, tombstones: Tombstones, ids: Sequence[str] | None) -> list[TableErasure]:
    """Erase what tombstones cover from every table of the lake.

    Args:
        ids: the users as they are stored; None for all whom the tombstones cover.

    Raises:
        LakeUnavailableError: a table cannot be read or written.
    """
    erased = (
        TableEraser(_folder(ports), table, tombstones, ids, logs=ports.logs, progress=ports.progress).erase()
        for table in erasable_tables()
    )
    return [table for table in erased if table is not None]


def _folder(ports: Ports) -> Path:
    """Return the lake's folder.

    Raises:
        LakeNotLocalError: the lake is in an object store, which may keep what is deleted.
    """
    return local_folder(lake_of(ports.settings), "An erasure")


def payload(found: Any) -> dict[str, Any]:
    """Return the JSON form of a plan or a report."""
    plain = dataclasses.asdict(found)
    plain["last_copies"] = [copy._asdict() for copy in found.last_copies]
    return plain
