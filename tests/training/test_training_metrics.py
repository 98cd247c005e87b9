import math

import numpy as np
import pytest

from bandit_serve.models import Bias, FactorizationMachine
from bandit_serve.training.dataset import DataSet
from bandit_serve.training.metrics import is_better, ranking_metrics, rating_metrics, squared_errors
from bandit_serve.training.ratings import Ratings, synthetic_ratings
from bandit_serve.training.splits import random_split

MADE = DataSet(synthetic_ratings(seed=1, n_users=50, n_items=80, n_ratings=1_200))
TRAIN, TEST = (MADE.take(rows) for rows in random_split(len(MADE), 0.4, 0))
MODEL = Bias().fit(TRAIN.ratings.users, TRAIN.ratings.items, TRAIN.ratings.values)


def test_errors_of_ratings():
    errors = [
        MODEL.predict(user, item) - value
        for user, item, value in zip(
            TEST.ratings.users.tolist(), TEST.ratings.items.tolist(), TEST.ratings.values, strict=True
        )
    ]
    found = rating_metrics(MODEL, TEST)
    assert found["rmse"] == pytest.approx(math.sqrt(np.mean(np.square(errors))))
    assert found["mae"] == pytest.approx(np.mean(np.abs(errors)))
    np.testing.assert_allclose(squared_errors(MODEL, TEST), np.square(errors), rtol=1e-3, atol=1e-5)


def test_rankings_are_those_of_the_definition():
    k, relevant_from = 7, 4.0
    every = sorted(set(TRAIN.ratings.items.tolist()))
    precision, recall, ndcg, shown = [], [], [], set()
    for user in sorted(set(TEST.ratings.users.tolist())):
        seen = set(TRAIN.ratings.items[TRAIN.ratings.users == user].tolist())
        mine = TEST.ratings.users == user
        liked = set(TEST.ratings.items[mine & (TEST.ratings.values >= relevant_from)].tolist())
        ranked = sorted(
            (item for item in every if item not in seen), key=lambda item: (-MODEL.predict(user, item), item)
        )[:k]
        shown |= set(ranked)
        if not liked:
            continue
        precision.append(len(liked & set(ranked)) / k)
        recall.append(len(liked & set(ranked)) / len(liked))
        gain = sum(1 / math.log2(place + 2) for place, item in enumerate(ranked) if item in liked)
        ndcg.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(liked)))))
    found = ranking_metrics(MODEL, TRAIN, TEST, k, relevant_from)
    assert found["precision@7"] == pytest.approx(np.mean(precision))
    assert found["recall@7"] == pytest.approx(np.mean(recall))
    assert found["ndcg@7"] == pytest.approx(np.mean(ndcg))
    assert found["coverage"] == pytest.approx(len(shown) / len(every))
    assert 0 < found["ndcg@7"] < 1


def test_a_perfect_ranking_is_1_and_nobody_liked_anything_is_no_figure():
    ratings = Ratings(
        np.array(["u", "u"]), np.array(["a", "b"]), np.array([5, 1], np.float32), np.zeros(2, np.int64)
    )
    empty = DataSet(ratings.take(np.zeros(0, np.int64)))
    model = Bias(user_damping=0, item_damping=0).fit(ratings.users, ratings.items, ratings.values)
    found = ranking_metrics(model, empty, DataSet(ratings), 1, 4.0)
    assert found == {"precision@1": 1.0, "recall@1": 1.0, "ndcg@1": 1.0, "coverage": 0.5}
    assert ranking_metrics(model, empty, DataSet(ratings), 1, 6.0) == {"coverage": 0.5}


def test_features_of_requests_are_asked_with():
    features = [{"odd": bool(number % 2)} for number in range(200)]
    ratings = synthetic_ratings(seed=2, n_users=20, n_items=40, n_ratings=200)
    values = ratings.values + np.arange(200) % 2
    data = DataSet(Ratings(ratings.users, ratings.items, values, ratings.timestamps), features=features)
    model = FactorizationMachine(4).fit(ratings.users, ratings.items, values, features=features)
    blind = DataSet(data.ratings)
    assert rating_metrics(model, data)["rmse"] < rating_metrics(model, blind)["rmse"]


@pytest.mark.parametrize(
    ("metric", "better"), [("rmse", False), ("time.mae", False), ("ndcg@10", True), ("coverage", True)]
)
def test_which_way_is_better(metric, better):
    assert is_better(metric, 2.0, 1.0) is better
    assert not is_better(metric, 1.0, 1.0)
