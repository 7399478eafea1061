"""A model answers everybody, whatever is asked; and is the same after it was written and read."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from features.catalog import FEATURES
from features.finalize import finalize
from sinks.erasures import Tombstones
from tests.taste_lakes import START_MS, TasteWorld, write_rows
from training.candidates import CandidateSource
from training.errors import DefinitionError, TooLittleDataError, TrainingError
from training.interactions import Interactions, read_interactions
from training.lake_snapshot import Snapshot
from training.ranker import SESSION, Query, as_number, fit_ranker
from training.recommending import ABOUT_FILE, RANKER_FILE, Recommending, parsed_model, write_model

WORLD = TasteWorld(users=60, groups=6, size=8, visits=6)
PRODUCTS = WORLD.groups * WORLD.size


def features_with(*last: str, **more: Any) -> dict[str, Any]:
    values = finalize({}, None)
    return {**{feature.name: values[feature.name] for feature in FEATURES}, "last_products_24h": list(last), **more}


def queries_in(found: Interactions) -> list[Query]:
    """Return a query of each interaction that follows another: its last product is the one before."""
    users, ids = found.user_ids.to_pylist(), found.product_ids.to_pylist()
    return [
        Query(users[found.users[row]], features_with(ids[found.products[row - 1]]), ids[found.products[row]])
        for row in range(1, len(found))
        if found.follows[row]
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    lake = tmp_path_factory.mktemp("lake")
    write_rows(lake, WORLD.rows())
    return read_interactions(Snapshot.of(lake), START_MS, WORLD.to_ms, Tombstones())


@pytest.fixture(scope="module")
def model(found: Interactions) -> Recommending:
    # as in training: the ranker learns from what comes after that which candidates were counted on
    middle_ms = START_MS + WORLD.range_ms // 2
    source = CandidateSource.fit(found.kept(found.times_ms < middle_ms), seed=1)
    queries = queries_in(found.kept(found.times_ms >= middle_ms))
    numbers = {product: number for number, product in enumerate(source.product_ids)}
    last = [[numbers[query.features["last_products_24h"][0]]] for query in queries]
    return Recommending(source, fit_ranker(source, last, queries, seed=1))


@pytest.mark.parametrize("k", [1, 10, PRODUCTS, 100])
@pytest.mark.parametrize("user", ["u3", "a stranger", ""])
def test_everybody_gets_as_many_as_there_are_each_once(model: Recommending, user: str, k: int) -> None:
    products = model.recommend(user, features_with("p1", "p9"), k)
    assert len(products) == len(set(products)) == min(k, PRODUCTS)


def test_a_stranger_without_a_session_gets_popular_products(model: Recommending) -> None:
    popular = {model.source.product_ids[number] for number in model.source.popular.top(20)}
    popular |= {model.source.product_ids[number] for number in model.source.recent.top(20)}
    assert set(model.recommend("", features_with(), 5)) <= popular


def test_a_fresh_session_of_a_stranger_gets_products_of_its_kind(model: Recommending) -> None:
    def of_group(*last: str) -> int:
        return sum(int(product[1:]) < WORLD.size for product in model.recommend("a stranger", features_with(*last), 8))

    assert of_group("p1", "p2", "p3") >= 5 > of_group("p41", "p42", "p43")


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"last_products_24h": None},
        {"last_products_24h": "p1"},
        {"last_products_24h": ["unknown", None, 7, "p1", "p1"]},
        features_with("p1", click_through_rate_30m=None, session_duration_s=math.nan, click_count_5m=10**400),
        features_with("p1", session_open="yes", cart_value_minor_1h=[1], page_view_count_24h=-1),
    ],
)
def test_strange_features_are_not_known_features(model: Recommending, features: dict[str, Any]) -> None:
    assert len(model.recommend("u3", features, 10)) == 10


def test_nothing_but_numbers_counts_as_a_number() -> None:
    assert [as_number(value) for value in (3, 2.5, True, False)] == [3.0, 2.5, 1.0, 0.0]
    assert all(math.isnan(as_number(value)) for value in (None, "3", [1], math.inf, math.nan, 10**400))
    assert "last_products_24h" not in SESSION
    assert "session_start_ms" not in SESSION
    assert "click_through_rate_30m" in SESSION


def test_many_at_once_get_what_each_alone_would(model: Recommending, found: Interactions) -> None:
    queries = [*queries_in(found)[:300], Query("a stranger", features_with(), "p1")]
    many = model.recommend_many(queries, 10)
    for query, scored in zip(queries[::20], many[::20], strict=True):
        assert scored.products == model.recommend(query.user_id, query.features, 10)
        assert all(0.0 <= chance <= 1.0 for chance in scored.probabilities)
        assert list(scored.probabilities) == sorted(scored.probabilities, reverse=True)


def test_a_model_that_was_written_and_read_answers_alike(
    model: Recommending, found: Interactions, tmp_path: Path
) -> None:
    write_model(tmp_path, model)
    read = parsed_model({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    queries = queries_in(found)[:100]
    assert read.recommend_many(queries, 20) == model.recommend_many(queries, 20)


def test_fitting_again_gives_the_same_text(model: Recommending, found: Interactions) -> None:
    queries = queries_in(found)[:300]
    last = [model.last_products(query.features) for query in queries]
    texts = {fit_ranker(model.source, last, queries, seed=1).model for _ in range(2)}
    assert len(texts) == 1


def test_only_one_file_of_a_model_names_users(model: Recommending, tmp_path: Path) -> None:
    write_model(tmp_path, model)
    names = {user.encode() for user in model.source.factors.users.ids() if len(user) > 2}
    naming = {path.name for path in tmp_path.iterdir() if any(b'"' + n + b'"' in path.read_bytes() for n in names)}
    assert naming == set()
    held = {path.name for path in tmp_path.iterdir() if b"u10u11u12" in path.read_bytes()}
    assert held == {"users.safetensors"}


def test_a_model_of_other_features_or_without_a_file_is_refused(model: Recommending, tmp_path: Path) -> None:
    write_model(tmp_path, model)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    about = json.loads(files[ABOUT_FILE])
    for changed in ({"definition_version": 99}, {"columns": about["columns"][1:]}, {"layout": 2}):
        with pytest.raises(DefinitionError, match="definition version"):
            parsed_model({**files, ABOUT_FILE: json.dumps({**about, **changed}).encode()})
    with pytest.raises(TrainingError, match=RANKER_FILE):
        parsed_model({name: content for name, content in files.items() if name != RANKER_FILE})


def test_one_class_is_refused_in_words(model: Recommending) -> None:
    unknown = [Query("u1", features_with("p1"), "no product of the shop")] * 30
    with pytest.raises(TooLittleDataError, match=r"one class: .* users took none"):
        fit_ranker(model.source, [[1]] * 30, unknown, seed=1)
