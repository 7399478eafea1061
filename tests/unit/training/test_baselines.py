"""Baselines count, and break ties the same way each time."""

from training.baselines import NEIGHBOURS, CoViews, Popularity


def test_popularity_sums_weights_and_breaks_ties_by_id() -> None:
    fitted = Popularity.fit([("b", 1.0), ("a", 1.0), ("c", 3.0), ("b", 1.0), ("d", 2.0)])
    assert fitted.ranked == ("c", "b", "d", "a")


def test_excluded_products_are_made_up_for() -> None:
    fitted = Popularity(("c", "b", "d", "a"))
    assert fitted.top(2, exclude={"c", "d", "unknown"}) == ["b", "a"]
    assert fitted.top(9) == ["c", "b", "d", "a"]


def test_co_views_count_neighbours_both_ways_but_never_a_product_itself() -> None:
    fitted = CoViews.fit([["a", "a", "b", "c"], ["b", "a"], ["b", "c", "d"]])
    assert fitted.of("b") == (("a", 2), ("c", 2))
    assert fitted.of("d") == (("c", 1),)
    assert fitted.of("unknown") == ()


def test_lists_of_neighbours_are_bounded() -> None:
    fitted = CoViews.fit([["hub", f"p{number:03}"] for number in range(NEIGHBOURS + 9)])
    assert len(fitted.of("hub")) == NEIGHBOURS
    assert fitted.of("hub")[0] == ("p000", 1)
