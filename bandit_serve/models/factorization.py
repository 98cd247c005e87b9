"""Biased matrix factorization, trained by stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.base.aligned import aligned_zeros
from bandit_serve.errors import InvalidInput
from bandit_serve.models._factorization import SAMPLE, pair_errors, sgd_epoch
from bandit_serve.models._ids import IdTable
from bandit_serve.models._learner import Learner
from bandit_serve.models.columns import rating_column
from bandit_serve.models.descent import OnEpoch, Schedule, descend
from bandit_serve.models.factorized import Factorized
from bandit_serve.models.hyper_parameters import (
    Epochs,
    Factors,
    HyperParameters,
    Penalty,
    Rate,
    Seed,
    made_of,
)
from bandit_serve.models.ids import index_ids
from bandit_serve.models.model import Features, FeaturesById, Validation
from bandit_serve.models.ranges import LogUniform, Space
from bandit_serve.models.rating_scale import RatingScale


class FactorizationParameters(HyperParameters, frozen=True):
    n_factors: Factors = 32
    seed: Seed = 0
    n_epochs: Epochs = 40
    learning_rate: Rate = 0.03
    final_learning_rate: Rate = 0.003
    regularization: Penalty = 0.08
    bias_regularization: Penalty = 0.05
    init_std: Penalty = 0.03
    online_rate: Rate = 0.1
    online_halving: Rate = 100.0


class MatrixFactorization(Factorized):
    """r̂(u, i) = μ + b_u + b_i + p_u·q_i (Koren, Bell, Volinsky 2009, eq. 4), the parameters by SGD.

    Scores are not clipped to the range of the ratings: clipping would tie the best items of a generous user,
    and lowers the RMSE on MovieLens by 0.0002 only.

    Parameters
    ----------
    n_factors : 1 to 4,096; the length of p_u and q_i
    seed : 0 or more; the same seed and data give the same model, bit for bit, for one build
    n_epochs : passes over the ratings, 1 or more
    learning_rate, final_learning_rate : of the first and the last epoch, geometric in between
    regularization, bias_regularization : the weight of the L2 penalty, per rating, on factors and on biases
    init_std : standard deviation of the normal that factors start from
    online_rate, online_halving : of `partial_fit`: a row that has learned from n ratings moves by
        online_rate / √(1 + n / online_halving) times the gradient

    Rates, penalties and `init_std` are meant for ratings whose spread is that of stars; others are scaled to it inside,
    and scores are in the unit of the ratings that it was fitted to. The defaults are tuned for 5-fold RMSE on
    MovieLens' small set, those of `partial_fit` on its ratings in time.
    """

    family: ClassVar[str] = "matrix_factorization"

    hyper_parameters: ClassVar[type[HyperParameters]] = FactorizationParameters
    search_space: ClassVar[Space] = {
        "n_factors": [16, 32, 64],
        "regularization": LogUniform(0.05, 0.12),
        "learning_rate": LogUniform(0.015, 0.04),
    }
    trained_by_default: ClassVar[bool] = True

    @made_of(FactorizationParameters)
    def __init__(self, parameters: FactorizationParameters) -> None:
        self.parameters: dict[str, Any] = msgspec.structs.asdict(parameters)

    @classmethod
    def of_factors(
        cls,
        user_ids: ArrayLike,
        item_ids: ArrayLike,
        user_factors: ArrayLike,
        item_factors: ArrayLike,
        *,
        mean: float = 0.0,
        user_biases: ArrayLike | None = None,
        item_biases: ArrayLike | None = None,
        user_counts: ArrayLike | None = None,
        item_counts: ArrayLike | None = None,
    ) -> Self:
        """Model of factors that were trained elsewhere, such as by ALS on implicit feedback.

        user_ids, item_ids : n and m distinct ids, str or int
        user_factors, item_factors : (n, f) and (m, f), finite
        mean, user_biases, item_biases : a number, (n,) and (m,); 0 by default
        user_counts, item_counts : (n,) and (m,), how many samples each was learned from; 1 by default

        Raises `InvalidInput` for an id that is there twice or not valid, and for shapes or numbers that are not so.
        """
        sides = (
            _side("users", user_ids, user_factors, user_biases, user_counts),
            _side("items", item_ids, item_factors, item_biases, item_counts),
        )
        (users, p, bu, nu), (items, q, bi, ni) = sides
        if p.shape[1] != q.shape[1]:
            raise InvalidInput("Factors of users and items must be equally long.")
        model = cls(p.shape[1])
        model._set(float(mean), p, q, bu, bi, users, items, nu, ni)
        return model

    def _new_learner(self) -> Learner:
        given = self.parameters
        return Learner(
            given["n_factors"],
            given["seed"],
            given["init_std"],
            rate=given["online_rate"],
            halving=given["online_halving"],
            regularization=given["regularization"],
            feature_regularization=given["regularization"],
            weight_regularization=given["bias_regularization"],
            scale=self.rating_unit,
        )

    def fit(
        self,
        users: ArrayLike,
        items: ArrayLike,
        ratings: ArrayLike,
        *,
        user_features: FeaturesById | None = None,
        item_features: FeaturesById | None = None,
        features: Sequence[Features] | None = None,
        validation: Validation | None = None,
        patience: int | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> Self:
        """Learns from n ratings; returns the model. A model is fitted once.

        users, items : n ids each, str or int (12 and "12" are one id)
        ratings : n finite numbers
        user_features, item_features, features : refused, this family takes none
        validation : (users, items, ratings) that are not learned from: the epoch that predicts them best is kept,
            and there are no more than `patience` (a quarter of `n_epochs`, 3 at least) after it
        on_epoch : called as `on_epoch(done, epochs, rmse)` after each epoch; the RMSE is that of the validation
            set, or else of the training ratings, each before its own update

        Raises `InvalidInput` when the columns disagree or are empty, an id or a rating is not valid, or the
        descent diverged.
        """
        if self.n_users:
            raise InvalidInput("The model is fitted already; make a new one.")
        if user_features is not None or item_features is not None or features is not None:
            raise InvalidInput(f"The family {self.family} takes no features.")
        values = rating_column(ratings)
        user_ids, user_rows = index_ids(users, "users")
        item_ids, item_rows = index_ids(items, "items")
        scale = RatingScale.of(values)
        samples = _samples(user_rows, item_rows, scale.plain(values))
        given = self.parameters
        generator = np.random.Generator(np.random.PCG64(given["seed"]))
        std = np.float32(given["init_std"])
        arrays = (
            _aligned(generator.standard_normal((len(user_ids), given["n_factors"]), np.float32) * std),
            _aligned(generator.standard_normal((len(item_ids), given["n_factors"]), np.float32) * std),
            np.zeros(len(user_ids), np.float32),
            np.zeros(len(item_ids), np.float32),
        )
        held_out = None if validation is None else _held_out(validation, user_ids, item_ids, scale)
        square = scale.unit**2

        def run(rate: float) -> float:
            shrink = given["bias_regularization"], given["regularization"]
            return square * sgd_epoch(samples, generator, *arrays, 0.0, rate, *shrink)

        descend(
            Schedule(given["n_epochs"], given["learning_rate"], given["final_learning_rate"]),
            run,
            lambda: list(arrays),
            validate=None if held_out is None else lambda: square * pair_errors(held_out, *arrays, 0.0),
            patience=patience,
            on_epoch=on_epoch,
        )
        for factors in arrays[:2]:
            factors *= np.sqrt(scale.unit)
        for biases in arrays[2:]:
            biases *= scale.unit
        counts = (
            np.bincount(user_rows, minlength=len(user_ids)).astype(np.int32),
            np.bincount(item_rows, minlength=len(item_ids)).astype(np.int32),
        )
        for array in (*arrays, *counts):
            array.flags.writeable = False
        self.rating_unit = scale.unit
        self._set(scale.mean, *arrays, user_ids, item_ids, *counts)
        return self


def _side(
    what: str, ids: ArrayLike, factors: ArrayLike, biases: ArrayLike | None, counts: ArrayLike | None
) -> tuple[IdTable, NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Ids' table and the parameters, in its order."""
    table, rows = index_ids(ids, what)
    n = rows.size
    if len(table) != n:
        raise InvalidInput(f"An id is there twice among the {what}.")
    given = np.asarray(factors)
    columns = (
        given,
        np.zeros(n) if biases is None else np.asarray(biases),
        np.ones(n) if counts is None else np.asarray(counts),
    )
    if given.ndim != 2 or not all(column.dtype.kind in "fiu" for column in columns):
        raise InvalidInput(f"Factors of the {what} must be a matrix of numbers, biases and counts numbers.")
    if not (len(given) == n and columns[1].shape == columns[2].shape == (n,)):
        raise InvalidInput(f"There must be as many factors, biases and counts as {what}.")
    if not (columns[2] >= 0).all() or not (columns[2] < 2**31).all():
        raise InvalidInput(f"Counts of the {what} must be from 0 to 2³¹ − 1.")
    order = np.empty(n, np.int64)
    order[rows] = np.arange(n)
    p = _aligned(given[order])
    b = columns[1][order].astype(np.float32)
    c = columns[2][order].astype(np.int32)
    for array in (p, b, c):
        array.flags.writeable = False
    return table, p, b, c


def _aligned(factors: NDArray[Any]) -> NDArray[np.float32]:
    copy: NDArray[np.float32] = aligned_zeros(factors.shape, np.float32)
    copy[:] = factors
    return copy


def _samples(user_rows: NDArray[np.int64], item_rows: NDArray[np.int64], values: NDArray[np.float32]) -> Any:
    if not user_rows.size == item_rows.size == values.size:
        raise InvalidInput("There must be as many users as items as ratings.")
    samples = np.empty(values.size, SAMPLE)
    samples["user"], samples["item"], samples["rating"] = user_rows, item_rows, values
    return samples


def _held_out(validation: Validation, user_ids: IdTable, item_ids: IdTable, scale: RatingScale) -> Any:
    """Samples of a validation set; −1 is a user or an item never seen."""
    users, items, ratings = validation[:3]
    user_rows = _known(user_ids, *index_ids(users, "users"))
    values = scale.plain(rating_column(ratings))
    return _samples(user_rows, _known(item_ids, *index_ids(items, "items")), values)


def _known(known: IdTable, table: IdTable, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    return known.rows([table.name(row) for row in range(len(table))])[codes]
