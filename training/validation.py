"""Measures models and baselines on the same queries of the hold-out, and says what that is evidence of.

The baselines are those of `training.baselines`, fitted on the same data as the challenger: the most popular products,
and those seen beside the last product, filled up with popular ones.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from training.evaluation import K, calibration_error, ndcg, paired_gain
from training.ranker import Query
from training.recommending import Recommending
from training.verdict import Evidence, Gain, SliceGain

CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
POPULARITY: Final = "popularity"
CO_VIEWS: Final = "co-views"
SLICE_QUERIES_MIN: Final = 50  # the mean of fewer says more about them than about the model
TIMED: Final = 300
TRIES: Final = 3


class Activity(NamedTuple):
    """What users had done in the data that a challenger was fitted on.

    Attributes:
        counts: interactions by user; those without any are absent.
        heavy_count: whoever has so many is a heavy user.
    """

    counts: Mapping[str, int]
    heavy_count: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured.

    Attributes:
        figures: of every system, of their gains and of slices; JSON.
        evidence: what a verdict is made of.
    """

    figures: Mapping[str, Any]
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class _Answers:
    lists: Sequence[Sequence[str]]
    hits: Any
    gains: Any
    figures: Mapping[str, float]


def measure(
    challenger: Recommending,
    champion: Recommending | None,
    queries: Sequence[Query],
    activity: Activity,
    seed: int,
) -> Measured:
    """Measure on queries; at least one.

    Args:
        champion: None where there is none; then popularity is what is to be beaten.
        activity: of the users who are asked about.
    """
    found = {CHALLENGER: _of_model(challenger, queries)}
    if champion is not None:
        found[CHAMPION] = _of_model(champion, queries)
    found[POPULARITY] = _judged(_popular(challenger, queries), queries, challenger)
    found[CO_VIEWS] = _judged(_co_viewed(challenger, queries), queries, challenger)
    users = np.unique([query.user_id for query in queries], return_inverse=True)[1]
    ours = found[CHALLENGER].gains
    gains = {
        name: paired_gain(name, users, ours, theirs.gains, seed) for name, theirs in found.items() if name != CHALLENGER
    }
    rival = CHAMPION if champion is not None else POPULARITY
    slices = _slices(found, rival, _masks(queries, activity), users, seed)
    evidence = Evidence(
        queries=len(queries),
        gain=gains[rival],
        slices=[
            SliceGain(name, each["queries"], each["ndcg_gain"], each["ndcg_gain_high"])
            for name, each in slices.items()
            if each["queries"] >= SLICE_QUERIES_MIN
        ],
        hit_rate=found[CHALLENGER].figures["hit_rate_at_10"],
        latency_p99_ms=found[CHALLENGER].figures["latency_p99_ms"],
    )
    figures = {
        "queries": len(queries),
        "users": int(users.max()) + 1,
        "rival": rival,
        "systems": {name: each.figures for name, each in found.items()},
        "gains": {name: _document(gain) for name, gain in gains.items()},
        "slices": slices,
    }
    return Measured(figures, evidence)


def _document(gain: Gain) -> dict[str, float]:
    return {name: value for name, value in asdict(gain).items() if name != "rival"}


def _of_model(model: Recommending, queries: Sequence[Query]) -> _Answers:
    scored = model.recommend_many(queries, K)
    answers = _judged([each.products for each in scored], queries, model)
    chances = [chance for each in scored for chance in each.probabilities]
    taken = [product == query.wanted for each, query in zip(scored, queries, strict=True) for product in each.products]
    known = ~np.isnan(chances)
    figures = dict(answers.figures)
    figures["calibration_error"] = calibration_error(np.asarray(chances)[known], np.asarray(taken)[known])
    figures |= _latency(model, queries)
    return _Answers(answers.lists, answers.hits, answers.gains, figures)


def _latency(model: Recommending, queries: Sequence[Query]) -> dict[str, float]:
    """Return how long single answers take: of each the best of some tries, or the machine would be judged."""
    taken_ms = []
    for query in queries[:TIMED]:
        tries = []
        for _ in range(TRIES):
            began = time.perf_counter()
            model.recommend(query.user_id, query.features, K)
            tries.append((time.perf_counter() - began) * 1_000)
        taken_ms.append(min(tries))
    p50, p99 = np.quantile(taken_ms, [0.5, 0.99])
    return {"latency_p50_ms": float(p50), "latency_p99_ms": float(p99)}


def _judged(lists: Sequence[Sequence[str]], queries: Sequence[Query], model: Recommending) -> _Answers:
    gains = np.array([ndcg(ranked, query.wanted) for ranked, query in zip(lists, queries, strict=True)])
    hits = gains > 0
    shown = {product for ranked in lists for product in ranked}
    figures = {
        "hit_rate_at_10": float(hits.mean()),
        "ndcg_at_10": float(gains.mean()),
        "coverage": len(shown) / len(model.source.product_ids),
    }
    return _Answers(lists, hits, gains, figures)


def _popular(model: Recommending, queries: Sequence[Query]) -> list[tuple[str, ...]]:
    ids = model.source.product_ids
    return [tuple(ids[number] for number in model.source.popular.top(K).tolist())] * len(queries)


def _co_viewed(model: Recommending, queries: Sequence[Query]) -> list[tuple[str, ...]]:
    ids, popular = model.source.product_ids, model.source.popular.top(2 * K).tolist()
    found = []
    for query in queries:
        last = model.last_products(query.features)[:1]
        near = model.source.co_views.of(last[0])[0][:K].tolist() if last else []
        numbers = list(dict.fromkeys([*near, *popular]))[:K]
        found.append(tuple(ids[number] for number in numbers))
    return found


def _masks(queries: Sequence[Query], activity: Activity) -> dict[str, Any]:
    counts = np.array([activity.counts.get(query.user_id, 0) for query in queries])
    masks = {"new users": counts == 0, "heavy users": counts >= activity.heavy_count}
    devices = np.array([query.device for query in queries])
    return masks | {f"device {name}": devices == name for name in sorted(set(devices.tolist()) - {""})}


def _slices(
    found: Mapping[str, _Answers], rival: str, masks: Mapping[str, Any], users: Any, seed: int
) -> dict[str, Any]:
    ours, theirs = found[CHALLENGER], found[rival]
    told = {}
    for name, mask in masks.items():
        if not mask.any():
            continue
        gain = paired_gain(rival, users[mask], ours.gains[mask], theirs.gains[mask], seed)
        told[name] = {
            "queries": int(mask.sum()),
            "hit_rate_at_10": float(ours.hits[mask].mean()),
            "ndcg_at_10": float(ours.gains[mask].mean()),
            "ndcg_gain": gain.mean,
            "ndcg_gain_low": gain.low,
            "ndcg_gain_high": gain.high,
        }
    return told
