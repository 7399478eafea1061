"""Erases once more what an older copy of the online store or of the lake has brought back."""

from collections.abc import Sequence

from feature_repo.erasing import Mark
from replay.erase import EraseModels, EraseSets, ErasureReport, erase_tables, no_models, no_sets
from replay.erasure_ports import Ports
from sinks.erasures import CUT, REQUESTED, ErasureRow, read_erasures, tombstones_of
from sinks.lake_root import is_there, lake_of, local_folder
from sinks.maintenance import exclusive


def erase_again(
    ports: Ports, *, erase_sets: EraseSets = no_sets, erase_models: EraseModels = no_models
) -> ErasureReport:
    """Erase what an older copy of the online store or of the lake has brought back of earlier erasures.

    Args:
        erase_sets: erases what tombstones cover from the training sets that were made of the lake.
        erase_models: erases the users whom tombstones cover from the models that were trained on it.

    Raises:
        SettingsError: they were noted under another key.
        LakeBusyError: other upkeep of the lake is under way.
        LakeUnavailableError, OnlineStoreError, BrokerUnavailableError: something does not answer.
    """
    lake = local_folder(lake_of(ports.settings), "An erasure")
    if not is_there(lake):
        return ErasureReport({}, (), ports.copies())
    with exclusive(lake):
        rows = read_erasures(lake)
        tombstones = tombstones_of(rows, ports.pseudonyms)
        if not tombstones:
            return ErasureReport({}, (), ports.copies())
        states = _states_again(ports, rows)
        tables = erase_tables(ports, tombstones, None)
        sets, models = erase_sets(tombstones), erase_models(tombstones)
        return ErasureReport(states, tables, ports.copies(), sets=sets, models=models)


def _states_again(ports: Ports, rows: Sequence[ErasureRow]) -> dict[str, int]:
    """Erase the states of erased users that are not newer than their tombstone; return how many, by topic."""
    limits: dict[str, dict[str, Mark]] = {}
    for row in rows:
        is_current = row.topic in ports.topics and row.log.topic_id == ports.topics[row.topic].topic_id
        if row.step in (REQUESTED, CUT) and is_current:
            mark = Mark(row.subject, row.topic, row.log.topic_id, row.partition, row.offset)
            held = limits.setdefault(row.subject, {}).get(row.topic)
            if held is None or held.version < mark.version:
                limits[row.subject][row.topic] = mark
    erased: dict[str, int] = {}
    for users in ports.states.users():
        for user_id in users:
            for subject in ports.pseudonyms.subjects(user_id):
                for topic in ports.states.erase(user_id, list(limits.get(subject, {}).values())):
                    erased[topic] = erased.get(topic, 0) + 1
    for subject in limits:
        ports.states.drop_marks(ports.states.marks_of(subject))
    return erased
