"""What each visitor of a simulated shop likes: a structure in the traffic that a model of who likes what can find.

A user likes few categories, and of each visit one of them is the subject. What many like follows from how popular the
categories are, so most users like what most others like, and yet each likes something of their own: popularity is a
fair guess, and knowing the user a much better one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from traffic.shop import Catalogue

LIKED: Final = 2
_SKEW: Final = 0.7  # how much more often a popular category is liked than the next
_FIRST_SHARE: Final = 0.65  # of the visits that are about the category that a user likes best
_IN_FASHION: Final = 6  # one in so many categories is liked by those who like others now
_LOOKS: Final = 0.9  # at the next position of a list, of those who looked at one
_CLICK_LIKED: Final = 0.15
_CLICK_OTHER: Final = 0.01


@dataclass(frozen=True)
class TasteMove:
    """From an instant on, a share of the users like other categories, which were rare before.

    Attributes:
        at_ms: event time of the first visits that are others, integer milliseconds UTC, at the simulator's even pace
            (`traffic.changes.DailyRhythm.even_ms` of an instant of days with a rhythm).
        share: of the users.
        seed: which of them, and what they like then.
    """

    at_ms: int
    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"the share of users who like other categories must be 0..1, not {self.share}")


class Tastes:
    """What the users of a shop like: a pure function of the seed, the shop, and how tastes have moved.

    Args:
        seed: who likes what.
        catalogue: the shop's.
        moves: how tastes have moved since the beginning, in their order; `at_ms` is not asked here.
    """

    def __init__(self, seed: int, catalogue: Catalogue, moves: Sequence[TasteMove] = ()) -> None:
        self._seed = seed
        self._catalogue = catalogue
        self._moves = tuple(moves)
        ranked = catalogue.ranked_categories
        self._weights = [(rank + 1) ** -_SKEW for rank in range(len(ranked))]
        self._category_of = dict(zip(catalogue.product_ids, catalogue.category_ids, strict=True))
        self._liked: dict[int, tuple[str, ...]] = {}

    def moved(self, share: float, seed: int = 0) -> "Tastes":
        """Return the tastes after a share of the users has come to like other, formerly rare categories."""
        return Tastes(self._seed, self._catalogue, (*self._moves, TasteMove(0, share, seed)))

    def liked(self, user_id: str) -> tuple[str, ...]:
        """Return the categories that a user likes, best first; at most `LIKED`, one where the shop has one.

        Raises:
            ValueError: it is no user of a simulated shop.
        """
        return self.liked_by(_number(user_id))

    def liked_by(self, user: int) -> tuple[str, ...]:
        """Return the categories that the user of a number likes, best first."""
        if user not in self._liked:
            self._liked[user] = self._draw(user)
        return self._liked[user]

    def products(self, user: int, share: float, rng: Random, popular: Iterator[int]) -> Iterator[int]:
        """Draw the products of one visit, for ever: indexes of the catalogue.

        Args:
            share: of the products that are of the visit's subject, a category that the user likes.
            popular: where the others come from.
        """
        liked = self.liked_by(user)
        subject = liked[0] if rng.random() < _FIRST_SHARE else liked[-1]
        while True:
            if rng.random() < share:
                yield self._catalogue.product_of(subject, rng.random())
            else:
                yield next(popular)

    def click_chance(self, user_id: str, product_ids: Sequence[str]) -> float:
        """Return the probability that a user clicks one of these, who is shown them as a list, best first.

        A visitor looks at one position after the other, may stop at any, and clicks what matches their taste far
        more often than what does not.
        """
        *_, (_, chance) = [("", 0.0), *self._chances(user_id, product_ids)]
        return chance

    def clicked(self, user_id: str, product_ids: Sequence[str], draw: float) -> str | None:
        """Return which one a user clicks, None for none.

        Args:
            draw: from 0 up to 1; over an even distribution of it a click has the probability `click_chance`.
        """
        return next((product for product, chance in self._chances(user_id, product_ids) if draw < chance), None)

    def _chances(self, user_id: str, product_ids: Sequence[str]) -> Iterator[tuple[str, float]]:
        """Yield each product with the probability that it or one before it is clicked."""
        liked = self.liked(user_id)
        clicked, looking = 0.0, 1.0
        for product in product_ids:
            chance = looking * (_CLICK_LIKED if self._category_of.get(product) in liked else _CLICK_OTHER)
            clicked += chance
            looking = (looking - chance) * _LOOKS
            yield product, clicked

    def _draw(self, user: int) -> tuple[str, ...]:
        liked, weights = self._catalogue.ranked_categories, self._weights
        text = f"{self._seed}:{user}"
        for number, move in enumerate(self._moves):
            if _is_among(user, move):
                liked = self._in_fashion(move)
                weights = [1.0] * len(liked)
                text += f":{number}:{move.seed}"
        rng = Random(text)  # noqa: S311 - reproducible traffic, not a secret
        return tuple(dict.fromkeys(rng.choices(liked, weights, k=8 * LIKED)))[:LIKED]

    def _in_fashion(self, move: TasteMove) -> list[str]:
        """Return what is liked after a move: the same few for all, or the shares of categories would hardly change."""
        ranked = self._catalogue.ranked_categories
        rng = Random(move.seed)  # noqa: S311 - reproducible traffic, not a secret
        return rng.sample(ranked[len(ranked) // 2 :], math.ceil(len(ranked) / _IN_FASHION))


def _is_among(user: int, move: TasteMove) -> bool:
    """Tell whether a user is one of the share that moves.

    They are spread evenly over the numbers, and so over busy and quiet users: the share of the traffic is as good as
    that of the users.
    """
    first = Random(move.seed).random()  # noqa: S311 - reproducible traffic, not a secret
    return int((user + 1) * move.share + first) > int(user * move.share + first)


def _number(user_id: str) -> int:
    if not user_id.startswith("u") or not user_id[1:].isdecimal():
        raise ValueError(f"{user_id!r} is no user of a simulated shop; they are u0, u1, and so on")
    return int(user_id[1:])
