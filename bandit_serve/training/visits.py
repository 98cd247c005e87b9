"""Visits made of held-out ratings: what a recommender is tried on when no live visitor is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bandit_serve.errors import InvalidInput
from bandit_serve.training.ratings import Ratings


@dataclass(frozen=True, slots=True)
class Visit:
    """A user is offered `items`, which they rated `ratings` (not shown to the model), both of one length.

    `liked_from`: the rating from which on the user liked an item.
    """

    user: str
    items: tuple[str, ...]
    ratings: tuple[float, ...]
    liked_from: float = 4.0

    def reward(self, shown_first: str) -> float:
        """1.0 when the item that was shown first is one that the user liked, otherwise 0.0."""
        return float(self.ratings[self.items.index(shown_first)] >= self.liked_from)


def visits(
    held_out: Ratings, n_visits: int, seed: int, n_offered: int = 10, liked_from: float = 4.0
) -> Iterator[Visit]:
    """`n_visits` visits of users drawn uniformly from those with at least `n_offered` held-out ratings.

    Each is offered `n_offered` of their held-out items, drawn without replacement, in random order. Raises
    `InvalidInput` when no user has so many.
    """
    users, rows = np.unique(held_out.users, return_inverse=True)
    by_user = np.split(np.argsort(rows, kind="stable"), np.cumsum(np.bincount(rows))[:-1])
    eligible = [user for user in range(len(users)) if len(by_user[user]) >= n_offered]
    if not eligible:
        raise InvalidInput(f"No user has {n_offered} held-out ratings.")
    random = np.random.default_rng(seed)
    for user in random.choice(eligible, n_visits):
        offered = random.choice(by_user[user], n_offered, replace=False)
        yield Visit(
            str(users[user]),
            tuple(held_out.items[offered].tolist()),
            tuple(held_out.values[offered].tolist()),
            liked_from,
        )
