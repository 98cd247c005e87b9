"""Recommenders that compete, and the reward that each would get on every visit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bandit_serve.models import MatrixFactorization, Model, Popularity
from bandit_serve.training.ratings import Ratings
from bandit_serve.training.visits import Visit

FACTORS = 64
EPOCHS = 60


@dataclass(frozen=True, slots=True)
class Recommender:
    """Arm of the demo: its name, a short description, and its fitted model."""

    arm: str
    about: str
    model: Model

    def rewards(self, visits: Sequence[Visit]) -> NDArray[np.float64]:
        """Rewards, float64 (n,), of the visits if this recommender ranked their items."""
        users = [visit.user for visit in visits for _ in visit.items]
        items = [item for visit in visits for item in visit.items]
        scores = np.asarray(self.model.predict_many(users, items))
        sizes = [len(visit.items) for visit in visits]
        by_visit = np.split(scores, np.cumsum(sizes)[:-1])
        return np.array([reward_of(visit, own) for visit, own in zip(visits, by_visit, strict=True)])


def reward_of(visit: Visit, scores: Sequence[float] | NDArray[np.float64]) -> float:
    """Reward of showing the item with the highest score: 1.0 if the user liked it."""
    return visit.reward(visit.items[int(np.argmax(scores))])


def train_all(ratings: Ratings, on_epoch: Callable[[str, int, int], object]) -> list[Recommender]:
    """Trains all recommenders, the control first; calls `on_epoch(arm, done, epochs)` after each epoch."""
    recommenders = []
    for arm, about, model in (
        ("popular", "the item that most have rated", Popularity()),
        ("mf-1-epoch", "matrix factorization, one epoch", MatrixFactorization(FACTORS, n_epochs=1)),
        (
            f"mf-{EPOCHS}-epochs",
            f"matrix factorization, {EPOCHS} epochs",
            MatrixFactorization(FACTORS, n_epochs=EPOCHS),
        ),
    ):
        model.fit(
            ratings.users,
            ratings.items,
            ratings.values,
            on_epoch=partial(_on_epoch, on_epoch, arm),
        )
        recommenders.append(Recommender(arm, about, model))
    return recommenders


def _on_epoch(tell: Callable[[str, int, int], object], arm: str, done: int, epochs: int, rmse: float) -> None:
    tell(arm, done, epochs)
