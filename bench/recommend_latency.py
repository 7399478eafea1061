"""How long one recommendation takes in process, at the size of a shop: 50,000 products by default.

python -m bench.recommend_latency [--products 50000] [--users 100000] [--questions 2000]

The model is one that was fitted on random visits: its answers say nothing, its sizes are those of a real one. The goal
is a p99 of at most 50 ms. Exit code 3 if it is missed.
"""

import argparse
import sys
import time
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.results import say
from features.catalog import FEATURES
from features.finalize import finalize
from training.candidates import CandidateSource
from training.fitting import SEED
from training.interactions import KINDS, Interactions
from training.ranker import Query, fit_ranker
from training.recommending import Recommending, last_numbers

GOAL_MS = 50.0
_QUERIES = 2_000
_CATEGORIES = 500


def interactions(users: int, products: int, per_user: int = 20) -> Interactions:
    """Return visits of many users: popular products more often, and in runs of neighbours."""
    draws = np.random.default_rng(SEED)
    count = users * per_user
    first = np.minimum(draws.zipf(1.2, count), products) - 1
    found = ((first + draws.integers(0, 20, count)) % products).astype(np.int32)
    user_ids, product_ids = (
        pa.array([f"{letter}{number}" for number in range(size)]) for letter, size in (("u", users), ("p", products))
    )
    return Interactions(
        user_ids=user_ids.take(pc.sort_indices(user_ids)),
        product_ids=product_ids,
        categories=(np.arange(products) % _CATEGORIES).astype(np.int32),
        category_ids=pa.array([f"c{number}" for number in range(_CATEGORIES)]),
        device_ids=pa.array([], pa.string()),
        users=np.repeat(np.arange(users, dtype=np.int32), per_user),
        products=found,
        kinds=draws.choice(len(KINDS), count, p=[0.7, 0.2, 0.08, 0.02]).astype(np.int8),
        devices=np.full(count, -1, np.int32),
        times_ms=np.tile(np.arange(per_user, dtype=np.int64) * 60_000, users),
        places=pa.table({"offset": pa.array(np.arange(count))}),
    )


def questions(found: Interactions, count: int, rng: Random) -> list[Query]:
    """Return questions of users with a session of ten products, one in ten of a user who is not known."""
    values = finalize({}, None)
    ids = found.product_ids.to_pylist()
    asked = []
    for number in range(count):
        features: dict[str, Any] = {feature.name: values[feature.name] for feature in FEATURES}
        last = found.products[rng.randrange(len(found) - 10) :][:10].tolist()
        features |= {"last_products_24h": [ids[product] for product in dict.fromkeys(last)], "click_count_30m": number}
        user = "a stranger" if number % 10 == 0 else found.user_ids[rng.randrange(len(found.user_ids))].as_py()
        asked.append(Query(user, features, ids[rng.choice(last)]))
    return asked


def main() -> None:
    """Measure; print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("--products", 50_000), ("--users", 100_000), ("--questions", 2_000)):
        parser.add_argument(name, type=int, default=value)
    options = parser.parse_args()
    rng = Random(SEED)  # noqa: S311 - a measurement, not a secret
    found = interactions(options.users, options.products)
    say(f"fitting on {len(found):,} interactions of {options.users:,} users with {options.products:,} products")
    source = CandidateSource.fit(found, SEED)
    numbers = {product: number for number, product in enumerate(source.product_ids)}
    learned = questions(found, _QUERIES, rng)
    last = [last_numbers(numbers, query.features) for query in learned]
    model = Recommending(source, fit_ranker(source, last, learned, SEED))
    asked = questions(found, options.questions, rng)
    model.recommend(asked[0].user_id, asked[0].features, 10)
    taken_ms = []
    for query in asked:
        began = time.perf_counter()
        model.recommend(query.user_id, query.features, 10)
        taken_ms.append((time.perf_counter() - began) * 1_000)
    p50, p99 = np.quantile(taken_ms, [0.5, 0.99])
    say(f"one recommendation: p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {max(taken_ms):.2f} ms; goal p99 {GOAL_MS:g}")
    sys.exit(0 if p99 <= GOAL_MS else 3)


if __name__ == "__main__":
    main()
