"""Fits a model on the first part of a range of time, and asks it about the last part.

    from_ms          ranker_from_ms        holdout_from_ms         to_ms
    | candidates of the ranker's sessions | sessions of the ranker | hold-out |
    | candidates of the model                                      |

The ranker learns from candidates as they will be: found by what had happened before. What is judged is what serves:
nothing is fitted on the hold-out afterwards, so that a later challenger and this model meet on data that neither saw.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from config.words import moment
from training.candidates import CandidateSource
from training.errors import TooLittleDataError
from training.interactions import Interactions
from training.queries import AskedQuery, chosen_rows
from training.ranker import fit_ranker
from training.recommending import Recommending, last_numbers
from training.validation import Activity

SEED: Final = 20_191_001
HEAVY_QUANTILE: Final = 0.9
RANKER_SHARE: Final = 0.25  # of the time before the hold-out


@dataclass(frozen=True, slots=True)
class Span:
    """A range of event times, and its parts.

    Attributes:
        from_ms: first of all.
        ranker_from_ms: first of the sessions that the ranker learns from.
        holdout_from_ms: first of the hold-out.
        to_ms: end, not included.
    """

    from_ms: int
    ranker_from_ms: int
    holdout_from_ms: int
    to_ms: int

    @classmethod
    def of(cls, from_ms: int, to_ms: int, holdout_share: float, began_ms: int | None = None) -> "Span":
        """Divide a range.

        Args:
            holdout_share: of its time, at most.
            began_ms: when a drift began. Of the time since then the hold-out is half at most: a challenger that was
                fitted on nothing of what has changed could not have learned it.
        """
        holdout_from_ms = to_ms - round((to_ms - from_ms) * holdout_share)
        if began_ms is not None and from_ms <= began_ms < to_ms:
            holdout_from_ms = max(holdout_from_ms, (began_ms + to_ms) // 2)
        ranker_from_ms = holdout_from_ms - round((holdout_from_ms - from_ms) * RANKER_SHARE)
        if began_ms is not None and from_ms <= began_ms < (ranker_from_ms + holdout_from_ms) // 2:
            # a ranker whose candidates know little of what most of its sessions are about learns not to trust them
            ranker_from_ms = max(ranker_from_ms, (began_ms + holdout_from_ms) // 2)
        return cls(from_ms, ranker_from_ms, holdout_from_ms, to_ms)


def check_enough(found: Interactions, span: Span, min_events: int) -> None:
    """Check that a model can be made of interactions.

    Raises:
        TooLittleDataError: there are too few, or a part of the range has none.
    """
    range_ = f"from {moment(span.from_ms)} to {moment(span.to_ms)}"
    if not len(found):
        raise TooLittleDataError(
            f"The lake holds no event with a product {range_}.",
            hint="Views, clicks, adds and purchases need a product_id; look at `shopstream status` or widen the range.",
        )
    before = int((found.times_ms < span.holdout_from_ms).sum())
    if before < min_events:
        raise TooLittleDataError(
            f"{before:,} events with a product lie before the hold-out, which begins at "
            f"{moment(span.holdout_from_ms)}, and training.min_events asks for {min_events:,}.",
            hint="Wait for more events, or give --from and --to around the time that has most of them.",
        )
    for name, first_ms, end_ms in (
        ("before the sessions that the ranker learns from", span.from_ms, span.ranker_from_ms),
        ("in the sessions that the ranker learns from", span.ranker_from_ms, span.holdout_from_ms),
        ("in the hold-out", span.holdout_from_ms, span.to_ms),
    ):
        if not ((found.times_ms >= first_ms) & (found.times_ms < end_ms)).any():
            raise TooLittleDataError(
                f"There is no event with a product {name}, from {moment(first_ms)} to {moment(end_ms)}.",
                hint="Events must be spread over the range; give --from and --to around them.",
            )


def query_rows(found: Interactions, span: Span, most: int) -> Any:
    """Choose the interactions to ask about, three in four of them for the ranker to learn from."""
    for_ranker = chosen_rows(found, span.ranker_from_ms, span.holdout_from_ms, most * 3 // 4, SEED)
    return np.concatenate([for_ranker, chosen_rows(found, span.holdout_from_ms, span.to_ms, most // 4, SEED)])


def fit(found: Interactions, span: Span, asked: Sequence[AskedQuery], tell: Callable[[str], None]) -> Recommending:
    """Fit a model; the same data gives the same one.

    Args:
        found: all interactions of the range; those of the hold-out are not looked at.
        asked: those of the hold-out are not looked at.

    Raises:
        TooLittleDataError: nobody took what could have been recommended, or everybody did.
    """
    queries = [each.query for each in asked if each.at_ms < span.holdout_from_ms]
    tell(f"Fitting factors before the ranker's {len(queries):,} sessions")
    before = CandidateSource.fit(found.kept(found.times_ms < span.ranker_from_ms).compacted(), SEED)
    numbers = {product: number for number, product in enumerate(before.product_ids)}
    tell("Fitting the ranker")
    ranker = fit_ranker(before, [last_numbers(numbers, query.features) for query in queries], queries, SEED)
    known = found.kept(found.times_ms < span.holdout_from_ms).compacted()
    tell(f"Fitting factors of {len(known.product_ids):,} products")
    return Recommending(CandidateSource.fit(known, SEED), ranker)


def activity_of(found: Interactions, span: Span, user_ids: Sequence[str]) -> Activity:
    """Tell how active users were before the hold-out.

    Args:
        user_ids: whose counts are wanted; those who did nothing are left out.
    """
    counts = np.bincount(found.users[found.times_ms < span.holdout_from_ms], minlength=len(found.user_ids))
    wanted = pc.index_in(pa.array(sorted(set(user_ids)), pa.string()), found.user_ids).drop_null().to_numpy()
    theirs = zip(found.user_ids.take(pa.array(wanted)).to_pylist(), counts[wanted].tolist(), strict=True)
    heavy = max(2.0, float(np.quantile(counts[counts > 0], HEAVY_QUANTILE)))
    return Activity({user: count for user, count in theirs if count}, heavy)
