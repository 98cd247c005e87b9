"""Trial of one fit: the piece of work that goes to a process, on this machine or another."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import Diverged, InvalidInput, TooLarge
from bandit_serve.models.descent import OnEpoch, Schedule
from bandit_serve.models.family import FAMILIES
from bandit_serve.models.model import Model
from bandit_serve.training.dataset import DataSet
from bandit_serve.training.metrics import Metrics, ranking_metrics, rating_metrics, squared_errors

# Of a family that goes no further with these parameters or this data, while others do.
NOT_FITTED = (Diverged, TooLarge)


class Measure(NamedTuple):
    """Measures besides `rmse` and `mae` of ratings: rankings of k items, or the squared error of each rating."""

    k: int | None = None
    relevant_from: float = 4.0
    errors: bool = False


class Trial(NamedTuple):
    """Fit and its metrics. `parameters` repeat the fit; `errors` (n,) are those of the test ratings, if asked for.

    `failure` says why there are no metrics: the fit diverged, or would be too large.
    """

    family: str
    parameters: dict[str, Any]
    metrics: Metrics
    seconds: float
    errors: NDArray[np.float64] | None = None
    failure: str | None = None


def new_model(family: str, parameters: Mapping[str, Any], seed: int) -> Model:
    kind = FAMILIES[family]
    takes_seed = "seed" in kind.hyper_parameters.__struct_fields__
    return kind(**({"seed": seed, **parameters} if takes_seed else parameters))


def fit(
    model: Model, data: DataSet, *, validation: DataSet | None = None, on_epoch: OnEpoch | None = None
) -> Model:
    """Model, fitted on a data set with the features that its family takes."""
    given: dict[str, Any] = {}
    if model.takes_features:
        given = {
            "user_features": data.user_features or None,
            "item_features": data.item_features or None,
            "features": data.features,
        }
    if validation is not None:
        held = validation.ratings
        given["validation"] = (held.users, held.items, held.values)
        if model.takes_features and validation.features is not None:
            given["validation"] += (validation.features,)
    return model.fit(data.ratings.users, data.ratings.items, data.ratings.values, on_epoch=on_epoch, **given)


def stop_early(family: str, parameters: Mapping[str, Any], seed: int, train: DataSet, test: DataSet) -> Trial:
    """Fit that stops early by the errors on `test`; its parameters are of a descent of that many epochs."""
    started_s = time.perf_counter()
    model, epoch_errors = new_model(family, parameters, seed), list[float]()
    try:
        fit(model, train, validation=test, on_epoch=lambda done, epochs, rmse: epoch_errors.append(rmse))
    except NOT_FITTED as error:
        return _failed(family, parameters, started_s, error)
    settled = dict(parameters)
    if "final_learning_rate" in model.parameters:
        best = int(np.argmin(epoch_errors)) + 1
        given = model.parameters
        descent = Schedule(given["n_epochs"], given["learning_rate"], given["final_learning_rate"])
        settled |= {"n_epochs": best, "final_learning_rate": descent.rate(best - 1)}
    return Trial(family, settled, rating_metrics(model, test), time.perf_counter() - started_s)


def measure(
    family: str, parameters: Mapping[str, Any], seed: int, train: DataSet, test: DataSet, what: Measure
) -> Trial:
    """Fit on `train`, measured on `test`."""
    started_s = time.perf_counter()
    try:
        model = fit(new_model(family, parameters, seed), train)
    except NOT_FITTED as error:
        return _failed(family, parameters, started_s, error)
    seconds = time.perf_counter() - started_s
    metrics = rating_metrics(model, test) if model.scores_are_ratings else {}
    if what.k is not None:
        metrics |= ranking_metrics(model, train, test, what.k, what.relevant_from)
    errors = squared_errors(model, test) if what.errors else None
    return Trial(family, dict(parameters), metrics, seconds, errors)


def _failed(family: str, parameters: Mapping[str, Any], started_s: float, error: InvalidInput) -> Trial:
    return Trial(family, dict(parameters), {}, time.perf_counter() - started_s, failure=str(error))
