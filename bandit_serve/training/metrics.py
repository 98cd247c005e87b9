"""Metrics of a model on ratings that it did not learn from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bandit_serve.models.model import Model
from bandit_serve.training.dataset import DataSet, batches

RATING_METRICS = frozenset({"rmse", "mae"})
PAIRS_AT_ONCE = 100_000

Metrics = dict[str, float]


def is_better(metric: str, value: float, than: float) -> bool:
    name = metric.rpartition(".")[2].partition("@")[0]
    return value < than if name in RATING_METRICS else value > than


def squared_errors(model: Model, data: DataSet) -> NDArray[np.float64]:
    """(n,): of each rating."""
    errors = np.empty(len(data))
    for part in batches(len(data), PAIRS_AT_ONCE):
        features = None
        if model.takes_features and data.features is not None:
            features = data.features[part]
        users, items = data.ratings.users[part].tolist(), data.ratings.items[part].tolist()
        errors[part] = model.predict_many(users, items, features) - data.ratings.values[part]
    return errors**2


def rating_metrics(model: Model, test: DataSet) -> Metrics:
    """`rmse`, √ mean (r̂ − r)², and `mae`, mean |r̂ − r|."""
    squares = squared_errors(model, test)
    return {"rmse": float(np.sqrt(squares.mean())), "mae": float(np.sqrt(squares).mean())}


def ranking_metrics(model: Model, train: DataSet, test: DataSet, k: int, relevant_from: float) -> Metrics:
    """Ranking metrics of the k best items of each user among those that they have not rated in `train`.

    Liked are the items of `test` that a user rated `relevant_from` or more; users without any are left out. With
    `hits` the number of liked items among the k, the means over users are

    - `precision@k`: hits / k
    - `recall@k`: hits / the number of liked items
    - `ndcg@k`: Σ 1/log₂(1 + place) over hits, divided by what it would be with all liked items first (Järvelin and
      Kekäläinen 2002, with gains of 0 and 1)
    - `coverage`: the part of all items that was among the k of any user, of all users in `test`
    """
    liked = _by_user(test, test.ratings.values >= relevant_from)
    rated = _by_user(train, np.ones(len(train), np.bool_))
    precisions, recalls, gains = [], [], []
    shown: set[str] = set()
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    users = sorted(set(test.ratings.users.tolist()))
    rankings = model.top_k_many(users, k, [rated.get(user, ()) for user in users])
    for user, best in zip(users, rankings, strict=True):
        ranked = [item for item, _ in best]
        shown.update(ranked)
        wanted = liked.get(user)
        if not wanted:
            continue
        hit = np.array([item in wanted for item in ranked] + [False] * (k - len(ranked)))
        precisions.append(hit.sum() / k)
        recalls.append(hit.sum() / len(wanted))
        gains.append(discounts[hit].sum() / discounts[: len(wanted)].sum())
    if not precisions:
        return {"coverage": len(shown) / model.n_items}
    return {
        f"precision@{k}": float(np.mean(precisions)),
        f"recall@{k}": float(np.mean(recalls)),
        f"ndcg@{k}": float(np.mean(gains)),
        "coverage": len(shown) / model.n_items,
    }


def _by_user(data: DataSet, chosen: NDArray[np.bool_]) -> Mapping[str, set[str]]:
    items_by_user: dict[str, set[str]] = {}
    users, items = data.ratings.users[chosen].tolist(), data.ratings.items[chosen].tolist()
    for user, item in zip(users, items, strict=True):
        items_by_user.setdefault(user, set()).add(item)
    return items_by_user
