"""Labels of users who were erased: those from before the erasure are left out of every set."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas.privacy import Pseudonyms
from sinks.erasures import FINISHED, ErasureRow
from training.errors import NotInLakeError
from training.labels import Labels


def refuse_unfinished(rows: Sequence[ErasureRow]) -> None:
    """Refuse to read states while an erasure is under way: some of the user's may still be there.

    Raises:
        NotInLakeError: one is.
    """
    finished = {row.request_id for row in rows if row.step == FINISHED}
    open_ones = {row.request_id for row in rows} - finished
    if open_ones:
        raise NotInLakeError(
            f"{len(open_ones)} erasure of this lake is not finished, and states of that user may still be in it.",
            hint="Let `shopstream lake erase` end, or run it again; then make the set.",
        )


def not_erased(labels: Labels, rows: Sequence[ErasureRow], pseudonyms: Pseudonyms | None) -> Any:
    """Return a numpy mask of the labels that are not from before an erasure of their user.

    Args:
        pseudonyms: with the key of the settings (`Pseudonyms.with_key_of`).
    """
    if not rows or pseudonyms is None:
        return np.ones(len(labels), bool)
    noted_ms: dict[str, int] = {}
    for row in rows:
        noted_ms[row.subject] = max(row.noted_ms, noted_ms.get(row.subject, 0))
    users = labels.user_ids.dictionary_encode()
    until_ms = np.array(
        [
            max(noted_ms.get(subject, -1) for subject in pseudonyms.subjects(user))
            for user in users.dictionary.to_pylist()
        ],
        np.int64,
    )
    return labels.instants_ms > until_ms[users.indices.to_numpy()]
