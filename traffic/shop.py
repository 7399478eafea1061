"""A simulated shop: its catalogue, and what one visitor does in one session."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import accumulate
from random import Random

import msgspec

_DRAWS = 4_096
_WORDS = ("lamp", "kettle", "sofa", "phone", "tyre", "boots", "watch", "drill", "tent", "desk", "mixer", "jacket")
_ADJECTIVES = ("", "red ", "cheap ", "small ", "used ", "large ", "light ", "waterproof ")


class Act(IntEnum):
    """One thing that a visitor does."""

    VIEW_LIST = 0
    VIEW_PRODUCT = 1
    CLICK = 2
    SEARCH = 3
    ADD = 4
    REMOVE = 5
    PURCHASE = 6


class Step(msgspec.Struct, frozen=True, gc=False):
    """One step of a session.

    Attributes:
        product: index in the catalogue; -1 where the step is about none.
        amount: pieces for a cart, position for a click, index of the query for a search.
    """

    act: Act
    product: int
    amount: int


@dataclass(frozen=True)
class Funnel:
    """How visitors behave on average, over whole sessions.

    Attributes:
        clicks: mean clicks in a session.
        conversion: share of the sessions that hold a purchase.
        abandonment: share of the sessions with a cart (at least one add) that hold no purchase.
        searches: mean searches before each click.
        extra_views: mean views of further products in a session.
        extra_adds: mean adds of a cart beyond its first.
        removal: share of the adds that are taken out again; a bought cart keeps at least one.
    """

    clicks: float = 1.2
    conversion: float = 0.023
    abandonment: float = 0.68
    searches: float = 0.25
    extra_views: float = 1.0
    extra_adds: float = 0.6
    removal: float = 0.15

    @property
    def cart_share(self) -> float:
        """Share of the sessions that hold a cart."""
        return self.conversion / (1.0 - self.abandonment)


class Catalogue:
    """Products with category and price, drawn once from the seed.

    Args:
        rng: source of all that is random here.
        products: how many there are; a smaller index is more popular (Zipf's law).
        categories: how many categories they fall into.

    Attributes:
        shelves: indexes of the products of each category that has any, the most popular first.
    """

    def __init__(self, rng: Random, products: int, categories: int) -> None:
        self.product_ids = [f"p{index}" for index in range(products)]
        self.category_ids = [f"c{rng.randrange(categories)}" for _ in range(products)]
        # prices as shops write them: whole units less one minor unit, most of them around 20
        self.prices_minor = [100 * max(1, round(math.exp(rng.gauss(3.0, 1.0)))) - 1 for _ in range(products)]
        self.queries = [adjective + word for word in _WORDS for adjective in _ADJECTIVES]
        self.shelves: dict[str, list[int]] = {}
        for index, category in enumerate(self.category_ids):
            self.shelves.setdefault(category, []).append(index)
        self._cumulated: dict[str, list[float]] = {}
        self._product_pages = [f"/p/{index}" for index in range(products)]
        self._category_pages = [f"/c/{category[1:]}" for category in self.category_ids]

    @cached_property
    def ranked_categories(self) -> list[str]:
        """The categories that have products, the most popular first: the one that most visits would be about."""
        weights = {category: sum(1.0 / (index + 1) for index in shelf) for category, shelf in self.shelves.items()}
        return sorted(weights, key=lambda category: (-weights[category], category))

    def product_of(self, category: str, draw: float) -> int:
        """Return the index of a product of a category, by Zipf's law.

        Args:
            draw: from 0 up to 1.

        Raises:
            KeyError: the shop has no such category.
        """
        if category not in self._cumulated:
            self._cumulated[category] = list(
                accumulate(1.0 / rank for rank in range(1, len(self.shelves[category]) + 1))
            )
        cumulated = self._cumulated[category]
        return self.shelves[category][bisect_right(cumulated, draw * cumulated[-1], hi=len(cumulated) - 1)]

    def page(self, act: Act, product: int) -> str | None:
        """Return the page on which a visitor does this; None for a click, which names the product only."""
        if act == Act.VIEW_PRODUCT:
            return self._product_pages[product]
        if act == Act.VIEW_LIST:
            return self._category_pages[product]
        return "/search" if act == Act.SEARCH else None


def zipf(rng: Random, size: int, exponent: float) -> Iterator[int]:
    """Draw indexes 0..size-1 for ever, index k with a probability in proportion to 1 / (k + 1) ** exponent."""
    cumulated = list(accumulate(rank**-exponent for rank in range(1, size + 1)))

    def draw() -> Iterator[int]:
        while True:
            yield from rng.choices(range(size), cum_weights=cumulated, k=_DRAWS)

    return draw()


def geometric(rng: Random, mean: float) -> int:
    """Draw a count 0, 1, 2, ... whose probabilities fall by a constant factor, with this mean."""
    if mean <= 0.0:
        return 0
    return int(math.log(1.0 - rng.random()) / math.log(mean / (1.0 + mean)))


class Visitors:
    """Scripts of sessions, one after the other, from one source of randomness."""

    def __init__(self, rng: Random, funnel: Funnel, query_count: int) -> None:
        self._rng = rng
        self._funnel = funnel
        self._query_count = query_count

    def script(self, products: Iterator[int]) -> list[Step]:
        """Return what one visitor does: browse, perhaps fill a cart, perhaps buy. It starts with a page view.

        Args:
            products: what they come upon, as indexes of the catalogue.
        """
        browsed, seen = self._browse(products)
        if self._rng.random() < self._funnel.cart_share:
            browsed.extend(self._cart(seen))
        return browsed

    def _browse(self, products: Iterator[int]) -> tuple[list[Step], list[int]]:
        rng, funnel = self._rng, self._funnel
        landing = next(products)
        on_product = rng.random() < 0.6
        steps = [Step(Act.VIEW_PRODUCT if on_product else Act.VIEW_LIST, landing, 0)]
        seen = [landing]
        for _ in range(geometric(rng, funnel.clicks)):
            searches = range(geometric(rng, funnel.searches))
            steps.extend(Step(Act.SEARCH, -1, int(rng.random() * self._query_count)) for _ in searches)
            product = next(products)
            steps.append(Step(Act.CLICK, product, 1 + int(rng.random() * 20)))
            steps.append(Step(Act.VIEW_PRODUCT, product, 0))
            seen.append(product)
        for _ in range(geometric(rng, funnel.extra_views)):
            product = next(products)
            steps.append(Step(Act.VIEW_PRODUCT, product, 0))
            seen.append(product)
        return steps, seen

    def _cart(self, seen: list[int]) -> list[Step]:
        rng, funnel = self._rng, self._funnel
        steps = []
        basket: dict[int, int] = {}
        for _ in range(1 + geometric(rng, funnel.extra_adds)):
            product = seen[int(rng.random() * len(seen))]
            quantity = 1 if rng.random() < 0.8 else 2
            basket[product] = basket.get(product, 0) + quantity
            steps.append(Step(Act.ADD, product, quantity))
        buys = rng.random() >= funnel.abandonment
        for product in list(basket):
            if rng.random() < funnel.removal and (len(basket) > 1 or not buys):
                quantity = basket.pop(product)
                steps.append(Step(Act.REMOVE, product, quantity))
        if buys:
            steps.extend(Step(Act.PURCHASE, product, quantity) for product, quantity in basket.items())
        return steps
