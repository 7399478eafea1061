"""Factors: the same each time, and for those who have none the step of the solver itself."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from sinks.erasures import Tombstones
from tests.taste_lakes import START_MS, TasteWorld, write_rows
from training.collaborative import CONFIDENCE, FACTORS, REGULARIZATION, Factors, confidences, fit_factors
from training.interactions import Interactions, read_interactions
from training.lake_snapshot import Snapshot

WORLD = TasteWorld(users=60, groups=6, size=8, visits=4)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    lake = tmp_path_factory.mktemp("lake")
    write_rows(lake, WORLD.rows())
    return read_interactions(Snapshot.of(lake), START_MS, WORLD.to_ms, Tombstones())


@pytest.fixture(scope="module")
def factors(found: Interactions) -> Factors:
    return fit_factors(found, seed=3)


def test_the_same_interactions_and_seed_give_the_same_factors(found: Interactions, factors: Factors) -> None:
    again = fit_factors(found, seed=3)
    assert np.array_equal(factors.of_users, again.of_users)
    assert np.array_equal(factors.of_products, again.of_products)
    assert not np.array_equal(factors.of_products, fit_factors(found, seed=4).of_products)


def test_folding_in_is_the_step_of_the_solver_for_one_user(factors: Factors) -> None:
    from implicit.cpu.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        solver = AlternatingLeastSquares(factors=FACTORS, regularization=REGULARIZATION)
    solver.item_factors = factors.of_products
    products = [3, 17, 40]
    row = np.full(3, confidences(1.0), np.float32)
    seen = csr_matrix((row, ([0, 0, 0], products)), shape=(1, len(factors.of_products)))
    assert np.allclose(factors.folded_in(products), solver.recalculate_user(0, seen), rtol=1e-3, atol=1e-4)


def test_a_session_is_drawn_to_products_of_the_same_taste(found: Interactions, factors: Factors) -> None:
    group = [number for number, product in enumerate(found.product_ids.to_pylist()) if int(product[1:]) < WORLD.size]
    scores = factors.of_products @ factors.folded_in(group[:3])
    others = np.setdiff1d(np.arange(len(scores)), group)
    assert scores[group[3:]].mean() > scores[others].mean() + scores[others].std()


def test_each_user_has_the_factors_of_its_own_row(found: Interactions, factors: Factors) -> None:
    assert list(factors.users.ids()) == found.user_ids.to_pylist()
    of_u7 = factors.of_user("u7")
    assert of_u7 is not None
    assert np.array_equal(of_u7, factors.of_users[found.user_ids.to_pylist().index("u7")])
    assert factors.of_user("a stranger") is None


def test_users_without_rows_have_no_factors(found: Interactions) -> None:
    part = fit_factors(found.kept(found.users != 0), seed=3)
    assert part.of_user(found.user_ids[0].as_py()) is None
    assert len(part.users) == len(found.user_ids) - 1


def test_confidence_grows_ever_more_slowly() -> None:
    one, two, ten = (confidences(weight) for weight in (1.0, 2.0, 10.0))
    assert 1.0 < one < two < ten < 1.0 + 10 * CONFIDENCE
