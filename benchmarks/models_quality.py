"""Prediction quality of the model families with their defaults: by folds, by time, and while learning goes on.

    python benchmarks/models_quality.py ../ml-latest-small/ratings.csv

- folds: RMSE of five random folds, the mean and its standard error.
- by time: RMSE of the last tenth of each user's ratings, and by how many standard errors (of paired differences) the
  mean squared error is below that of biases alone.
- second half: fitted on the first half of all ratings in time; RMSE of the second half, each rating predicted before it
  is learned from, beside that of the same model frozen after its first half.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from numpy.typing import NDArray

from bandit_serve.models import Bias, FactorizationMachine, MatrixFactorization
from bandit_serve.training import DataSet, read_dataset
from bandit_serve.training.splits import latest, latest_of_each_user, random_folds

Family = type[Bias] | type[MatrixFactorization] | type[FactorizationMachine]
FAMILIES: tuple[Family, ...] = (Bias, MatrixFactorization, FactorizationMachine)
FOLDS = 5


def fitted(family: Family, data: DataSet) -> Bias | MatrixFactorization | FactorizationMachine:
    ratings = data.ratings
    if family is FactorizationMachine:
        return FactorizationMachine().fit(
            ratings.users, ratings.items, ratings.values, item_features=data.item_features
        )
    return family().fit(ratings.users, ratings.items, ratings.values)


def squares(family: Family, train: DataSet, test: DataSet) -> NDArray[np.float64]:
    held = test.ratings
    predicted = fitted(family, train).predict_many(held.users.tolist(), held.items.tolist())
    return np.square(predicted - held.values)


def by_folds(family: Family, data: DataSet) -> str:
    rows = [
        math.sqrt(squares(family, data.take(train), data.take(test)).mean())
        for train, test in random_folds(len(data), FOLDS, seed=0)
    ]
    return f"{np.mean(rows):.4f} ± {np.std(rows, ddof=1) / math.sqrt(FOLDS):.4f}"


def by_time(family: Family, data: DataSet) -> str:
    train, test = latest_of_each_user(data.ratings.users, data.ratings.timestamps, 0.1)
    own = squares(family, data.take(train), data.take(test))
    gain = squares(Bias, data.take(train), data.take(test)) - own
    apart = "" if family is Bias else f", {gain.mean() / (gain.std() / math.sqrt(gain.size)):+.1f} errors"
    return f"{math.sqrt(own.mean()):.4f}{apart}"


def second_half(family: Family, data: DataSet) -> str:
    first, second = latest(data.ratings.timestamps, 0.5)
    later = data.ratings.take(second[np.argsort(data.ratings.timestamps[second], kind="stable")])
    model = fitted(family, data.take(first))
    users, items, values = later.users.tolist(), later.items.tolist(), later.values.tolist()
    frozen = np.square(model.predict_many(users, items) - later.values)
    total = 0.0
    for user, item, value in zip(users, items, values, strict=True):
        total += (model.predict(user, item) - value) ** 2
        model.partial_fit(user, item, value)
    return f"{math.sqrt(total / len(values)):.4f}, frozen {math.sqrt(frozen.mean()):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ratings", help="ratings.csv of MovieLens; genres are read from movies.csv beside it")
    data = read_dataset(parser.parse_args().ratings)
    print(f"{len(data):,} ratings from {data.source}; RMSE\n")
    print("| family | five folds | by time | second half |\n|---|---|---|---|")
    for family in FAMILIES:
        cells = [measure(family, data) for measure in (by_folds, by_time, second_half)]
        print(f"| {family.family} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
