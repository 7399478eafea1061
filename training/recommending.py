"""The model that serving loads: candidates by collaborative filtering and counts, in the order of the session ranker.

It is kept as columns (safetensors), as LightGBM's text and as JSON. Only bytes that were checked are parsed, and no
format of them can hold code. `users.safetensors` is the one file that names users.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from features.catalog import DEFINITION_VERSION
from training.baselines import CoViews, Popularity
from training.candidates import CandidateSource
from training.collaborative import Factors
from training.errors import DefinitionError, TrainingError
from training.known_users import KnownUsers
from training.ranker import NAMES, Query, Ranker, ranker_rows

LAST_PRODUCTS: Final = "last_products_24h"
USERS_FILE: Final = "users.safetensors"
PRODUCTS_FILE: Final = "products.safetensors"
IDS_FILE: Final = "products.json"
RANKER_FILE: Final = "ranker.txt"
ABOUT_FILE: Final = "model.json"
LAYOUT: Final = 1

_AT_ONCE: Final = 256


class Scored(NamedTuple):
    """What is recommended.

    Attributes:
        products: best first.
        probabilities: that each is taken next; NaN for those that only fill the list up.
    """

    products: tuple[str, ...]
    probabilities: tuple[float, ...]


class Recommending:
    """Recommends. Threads may share it.

    Args:
        source: gives the candidates.
        ranker: orders them.
    """

    def __init__(self, source: CandidateSource, ranker: Ranker) -> None:
        self.source = source
        self.ranker = ranker
        self._numbers = {product: number for number, product in enumerate(source.product_ids)}

    def recommend(self, user_id: str, features: Mapping[str, Any], k: int) -> Sequence[str]:
        """Return at most `k` products, best first; to a user without history or session, popular ones.

        Fewer only where there are not so many products. Features may be null, missing or of another type, and last
        products unknown: what cannot be used counts as not known.

        Args:
            user_id: as stores hold it.
        """
        return self._scored([(user_id, features)], k)[0].products

    def recommend_many(self, queries: Sequence[Query], k: int) -> list[Scored]:
        """Return what `recommend` would, of many at once, with the probabilities."""
        found: list[Scored] = []
        for first in range(0, len(queries), _AT_ONCE):
            asked = [(query.user_id, query.features) for query in queries[first:][:_AT_ONCE]]
            found += self._scored(asked, k)
        return found

    def last_products(self, features: Mapping[str, Any]) -> list[int]:
        """Return the numbers of the last products that are known, newest first, each once."""
        return last_numbers(self._numbers, features)

    def _scored(self, asked: Sequence[tuple[str, Mapping[str, Any]]], k: int) -> list[Scored]:
        sets = [self.source.of(user_id, self.last_products(features)) for user_id, features in asked]
        rows = [ranker_rows(each, features) for each, (_, features) in zip(sets, asked, strict=True)]
        chances = np.asarray(self.ranker.probabilities(np.concatenate(rows)))
        ends = np.cumsum([len(each.products) for each in sets])[:-1]
        return [self._best(each.products, own, k) for each, own in zip(sets, np.split(chances, ends), strict=True)]

    def _best(self, products: Any, chances: Any, k: int) -> Scored:
        popularity = self.source.popular.shares[products]
        order = np.lexsort((products, -popularity, -chances))[:k]
        numbers, known = products[order].tolist(), chances[order].tolist()
        if len(numbers) < k:
            more = list(islice(self._popular_but(set(numbers)), k - len(numbers)))
            numbers, known = numbers + more, known + [float("nan")] * len(more)
        return Scored(tuple(self.source.product_ids[number] for number in numbers), tuple(known))

    def _popular_but(self, taken: set[int]) -> Iterator[int]:
        return (number for number in self.source.popular.ranked[: 2 * len(taken) + 200].tolist() if number not in taken)


def last_numbers(numbers: Mapping[str, int], features: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the last products of a session that are known, newest first, each once."""
    last = features.get(LAST_PRODUCTS)
    if not isinstance(last, list | tuple):
        return []
    known = (numbers.get(product) for product in last if isinstance(product, str))
    return list(dict.fromkeys(number for number in known if number is not None))


def write_model(folder: Path, model: Recommending) -> None:
    """Write a model's files into an empty folder."""
    from safetensors.numpy import save_file

    source = model.source
    write_users(folder, source.factors.users, source.factors.of_users)
    products = {
        "factors": source.factors.of_products,
        "categories": source.categories,
        "co_view_starts": source.co_views.starts,
        "co_view_neighbours": source.co_views.neighbours,
        "co_view_shares": source.co_views.shares,
        "popular_ranked": source.popular.ranked,
        "popular_shares": source.popular.shares,
        "recent_ranked": source.recent.ranked,
        "recent_shares": source.recent.shares,
    }
    save_file({name: np.ascontiguousarray(column) for name, column in products.items()}, folder / PRODUCTS_FILE)
    (folder / IDS_FILE).write_text(json.dumps(list(source.product_ids)))
    (folder / RANKER_FILE).write_text(model.ranker.model)
    about = {"layout": LAYOUT, "definition_version": DEFINITION_VERSION, "columns": list(NAMES)}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1))


def write_users(folder: Path, users: KnownUsers, factors: Any) -> None:
    """Write the one file that names users."""
    from safetensors.numpy import save_file

    columns = {"starts": users.starts, "texts": users.texts, "factors": factors}
    save_file({name: np.ascontiguousarray(column) for name, column in columns.items()}, folder / USERS_FILE)


def parsed_users(content: bytes) -> tuple[KnownUsers, Any]:
    """Return the users of that file, and a row of factors of each."""
    from safetensors.numpy import load

    columns = load(content)
    return KnownUsers(columns["starts"], columns["texts"]), columns["factors"]


def parsed_model(files: Mapping[str, bytes]) -> Recommending:
    """Make a model of its files, which were checked.

    Args:
        files: content by name, as `training.artefacts.checked_files` returns it.

    Raises:
        DefinitionError: it needs features of another definition version, or others than this release has.
        TrainingError: the files are no model.
    """
    from safetensors.numpy import load

    missing = {USERS_FILE, PRODUCTS_FILE, IDS_FILE, RANKER_FILE, ABOUT_FILE} - set(files)
    if missing:
        raise TrainingError(f"A model lacks {', '.join(sorted(missing))}.", hint="Train another one.")
    about = json.loads(files[ABOUT_FILE])
    if (
        about["definition_version"] != DEFINITION_VERSION
        or about["columns"] != list(NAMES)
        or about["layout"] != LAYOUT
    ):
        raise DefinitionError(
            f"The model was trained on features of definition version {about['definition_version']} as another release "
            f"has them; this one has version {DEFINITION_VERSION}.",
            hint="Train another one, or serve with the release that trained it.",
        )
    users, of_users = parsed_users(files[USERS_FILE])
    columns = load(files[PRODUCTS_FILE])
    source = CandidateSource(
        product_ids=tuple(json.loads(files[IDS_FILE])),
        categories=columns["categories"],
        factors=Factors(users, of_users, columns["factors"]),
        co_views=CoViews(columns["co_view_starts"], columns["co_view_neighbours"], columns["co_view_shares"]),
        popular=Popularity(columns["popular_ranked"], columns["popular_shares"]),
        recent=Popularity(columns["recent_ranked"], columns["recent_shares"]),
    )
    return Recommending(source, Ranker(files[RANKER_FILE].decode()))
