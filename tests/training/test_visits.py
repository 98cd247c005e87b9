from dataclasses import replace

import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.models import MatrixFactorization, Popularity
from bandit_serve.training.ratings import Ratings, synthetic_ratings
from bandit_serve.training.splits import holdout
from bandit_serve.training.visits import Visit, visits

RATINGS = synthetic_ratings(seed=0)
TRAIN, TEST = holdout(RATINGS.users, 0.3, seed=0)
HELD_OUT = RATINGS.take(TEST)


def test_a_visit_offers_ten_held_out_items_with_their_ratings():
    rated = {
        pair: value
        for *pair, value in zip(
            HELD_OUT.users.tolist(), HELD_OUT.items.tolist(), HELD_OUT.values, strict=True
        )
        for pair in [tuple(pair)]
    }
    made = list(visits(HELD_OUT, 500, seed=1))
    assert len(made) == 500
    for visit in made:
        assert len(set(visit.items)) == len(visit.items) == len(visit.ratings) == 10
        assert [rated[visit.user, item] for item in visit.items] == list(visit.ratings)
    assert len({visit.user for visit in made}) > 200
    assert made == list(visits(HELD_OUT, 500, seed=1))
    assert made != list(visits(HELD_OUT, 500, seed=2))


def test_the_reward_is_whether_the_first_was_liked():
    visit = Visit("u", ("a", "b", "c"), (3.5, 4.0, 5.0))
    assert [visit.reward(item) for item in "abc"] == [0.0, 1.0, 1.0]
    assert replace(visit, liked_from=3.5).reward("a") == 1.0


def test_nobody_with_enough_held_out_is_refused():
    few = Ratings(np.array(["u"] * 9), np.arange(9).astype(str), np.ones(9, np.float32), np.arange(9))
    with pytest.raises(InvalidInput, match="No user has 10"):
        next(visits(few, 1, seed=0))
    assert len(next(visits(few, 1, seed=0, n_offered=9)).items) == 9


def test_recommenders_are_of_clearly_different_worth():
    seen = RATINGS.take(TRAIN)
    models = [Popularity(), MatrixFactorization(n_epochs=1), MatrixFactorization()]
    for model in models:
        model.fit(seen.users, seen.items, seen.values)
    rewards = np.array(
        [
            [
                visit.reward(visit.items[int(np.argmax(m.predict_items(visit.user, visit.items)))])
                for m in models
            ]
            for visit in visits(HELD_OUT, 4_000, seed=3)
        ]
    )
    popular, brief, trained = rewards.mean(axis=0)
    assert brief - popular > 0.03
    assert trained - brief > 0.03
