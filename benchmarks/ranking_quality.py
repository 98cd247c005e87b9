"""Rankings of the families that learn from interactions, beside implicit's, popularity and the biases.

    OPENBLAS_NUM_THREADS=1 python benchmarks/ranking_quality.py ../ml-latest-small/ratings.csv

Held out is the latest tenth of each user's ratings, of which those count that reach `Ratings.liked_from` (4 stars); all
items that a user has not rated before are ranked. Hyper-parameters are searched on the latest tenth of what is left,
with as many combinations for each family; implicit's include whether likes or all ratings are interactions. The best of
each is then fitted anew in every round, one after another, each with a seed of its own.

- ndcg@10, precision@10, recall@10: medians over the rounds.
- fit: median of seconds of CPU, on one thread; of ours from columns of ids, of implicit's from a sparse matrix that is
  ready.
- learning on: ndcg@10 of the latest tenth where the model was fitted on the first half of the rest in time and then
  learned from the second, one rating at a time, beside that of the model as it was after its first half.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from threadpoolctl import threadpool_limits

from bandit_serve.models import Bias, LinearItems, MatrixFactorization, Model, Popularity, WeightedALS
from bandit_serve.models.ranges import LogUniform, Space
from bandit_serve.training import DataSet, read_dataset
from bandit_serve.training.metrics import ranking_metrics
from bandit_serve.training.space import sample
from bandit_serve.training.splits import latest, latest_of_each_user

K = 10
SHARE = 0.1
IMPLICIT_ALS: Space = {
    "factors": [16, 24, 32, 48, 64, 96],
    "regularization": LogUniform(0.01, 30.0),
    "alpha": LogUniform(0.3, 20.0),
    "iterations": [8, 15, 25],
    "likes": [True, True, False],
}
IMPLICIT_BPR: Space = {
    "factors": [16, 24, 32, 48, 64, 96],
    "regularization": LogUniform(0.001, 0.1),
    "learning_rate": LogUniform(0.003, 0.2),
    "iterations": [50, 100, 200],
    "likes": [True, True, False],
}


class Fitted(NamedTuple):
    model: Model
    seconds: float


Fit = Callable[[DataSet, float, Mapping[str, Any], int], Fitted]


def ours(family: type[LinearItems] | type[WeightedALS]) -> Fit:
    def fit(data: DataSet, liked_from: float, parameters: Mapping[str, Any], seed: int) -> Fitted:
        columns = data.ratings.users.astype(np.int64), data.ratings.items.astype(np.int64)
        values = data.ratings.values
        model = family(**{**parameters, "seed": seed})
        started_s = time.process_time()
        model.fit(*columns, values, n_threads=1)
        return Fitted(model, time.process_time() - started_s)

    return fit


def implicit(kind: Any) -> Fit:
    def fit(data: DataSet, liked_from: float, parameters: Mapping[str, Any], seed: int) -> Fitted:
        given = dict(parameters)
        chosen = data.ratings
        if given.pop("likes"):
            chosen = chosen.take(np.flatnonzero(chosen.values >= liked_from))
        users, user_rows = np.unique(chosen.users, return_inverse=True)
        items, item_rows = np.unique(chosen.items, return_inverse=True)
        ones = np.ones(len(chosen), np.float32)
        matrix = scipy.sparse.csr_matrix((ones, (user_rows, item_rows)))
        model = kind(**given, random_state=seed, num_threads=1)
        started_s = time.process_time()
        model.fit(matrix, show_progress=False)
        seconds = time.process_time() - started_s
        factors = model.user_factors, model.item_factors
        return Fitted(MatrixFactorization.of_factors(users, items, *factors), seconds)

    return fit


def plain(family: type[Bias] | type[Popularity]) -> Fit:
    def fit(data: DataSet, liked_from: float, parameters: Mapping[str, Any], seed: int) -> Fitted:
        started_s = time.process_time()
        model = family().fit(data.ratings.users, data.ratings.items, data.ratings.values)
        return Fitted(model, time.process_time() - started_s)

    return fit


KINDS: Mapping[str, tuple[Fit, Space]] = {
    "biases": (plain(Bias), {}),
    "popularity": (plain(Popularity), {}),
    "implicit ALS": (implicit(AlternatingLeastSquares), IMPLICIT_ALS),
    "implicit BPR": (implicit(BayesianPersonalizedRanking), IMPLICIT_BPR),
    WeightedALS.family: (ours(WeightedALS), WeightedALS.search_space),
    LinearItems.family: (ours(LinearItems), LinearItems.search_space),
}


class Round(NamedTuple):
    seconds: float
    metrics: Mapping[str, float]


def searched(fit: Fit, space: Space, data: DataSet, liked_from: float, trials: int) -> dict[str, Any]:
    """Combination with the highest ndcg on the latest tenth."""
    train, test = parts(data)
    values = []
    for parameters in sample(space, trials, 0) or [{}]:
        model = fit(train, liked_from, parameters, 0).model
        values.append((ranking_metrics(model, train, test, K, liked_from)[f"ndcg@{K}"], parameters))
    return max(values, key=lambda each: each[0])[1]


def parts(data: DataSet) -> tuple[DataSet, DataSet]:
    train, test = latest_of_each_user(data.ratings.users, data.ratings.timestamps, SHARE)
    return data.take(train), data.take(test)


def learned_on(fit: Fit, train: DataSet, test: DataSet, liked_from: float, parameters: Any) -> str:
    first, second = latest(train.ratings.timestamps, 0.5)
    later = train.ratings.take(second[np.argsort(train.ratings.timestamps[second], kind="stable")])
    model = fit(train.take(first), liked_from, parameters, 0).model
    frozen = ranking_metrics(model, train, test, K, liked_from)[f"ndcg@{K}"]
    for user, item, value in zip(
        later.users.tolist(), later.items.tolist(), later.values.tolist(), strict=True
    ):
        model.partial_fit(user, item, value)
    ndcg = ranking_metrics(model, train, test, K, liked_from)[f"ndcg@{K}"]
    return f"{ndcg:.4f}, frozen {frozen:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ratings", help="ratings.csv of MovieLens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trials", type=int, default=30)
    asked = parser.parse_args()
    data = read_dataset(asked.ratings)
    liked_from = data.ratings.liked_from
    train, test = parts(data)
    rounds: dict[str, list[Round]] = {name: [] for name in KINDS}
    with threadpool_limits(1):
        best = {
            name: searched(fit, space, train, liked_from, asked.trials)
            for name, (fit, space) in KINDS.items()
        }
        for number in range(asked.rounds):
            for name, (fit, _) in KINDS.items():
                model, seconds = fit(train, liked_from, best[name], number)
                rounds[name].append(Round(seconds, ranking_metrics(model, train, test, K, liked_from)))
        names = [f"ndcg@{K}", f"precision@{K}", f"recall@{K}"]
        print(f"{len(data):,} ratings; {asked.trials} combinations, {asked.rounds} rounds\n")
        print(f"| | {' | '.join(names)} | fit, s | learning on | parameters |\n|---|---|---|---|---|---|---|")
        for name, (fit, _) in KINDS.items():
            figures = [f"{median(each.metrics[metric] for each in rounds[name]):.4f}" for metric in names]
            seconds = median(each.seconds for each in rounds[name])
            on = "–"
            if name in (LinearItems.family, WeightedALS.family):
                on = learned_on(fit, train, test, liked_from, best[name])
            shown = ", ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in best[name].items()
            )
            print(f"| {name} | {' | '.join(figures)} | {seconds:.4f} | {on} | {shown or '–'} |", flush=True)
    print()
    for name in (LinearItems.family, WeightedALS.family):
        own = rounds[name]
        for other in ("implicit ALS", "implicit BPR", "popularity", "biases"):
            gains = [
                one.metrics[names[0]] / their.metrics[names[0]]
                for one, their in zip(own, rounds[other], strict=True)
            ]
            speed = [their.seconds / one.seconds for one, their in zip(own, rounds[other], strict=True)]
            print(f"{name} / {other}: {names[0]} × {median(gains):.2f}, speed × {median(speed):.1f}")


if __name__ == "__main__":
    main()
