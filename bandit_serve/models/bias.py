"""Biases alone: the baseline that factors have to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from bandit_serve.errors import InvalidInput
from bandit_serve.models._learner import Learner
from bandit_serve.models.columns import rating_column
from bandit_serve.models.descent import OnEpoch
from bandit_serve.models.factorized import Factorized
from bandit_serve.models.hyper_parameters import Epochs, HyperParameters, Penalty, Rate, made_of
from bandit_serve.models.ids import index_ids
from bandit_serve.models.model import Features, FeaturesById, Validation
from bandit_serve.models.rating_scale import RatingScale


class BiasParameters(HyperParameters, frozen=True):
    n_epochs: Epochs = 10
    user_damping: Penalty = 5.0
    item_damping: Penalty = 5.0
    online_rate: Rate = 0.1
    online_halving: Rate = 100.0


class Bias(Factorized):
    """r̂(u, i) = μ + b_u + b_i: means that are drawn towards 0 (Koren 2010, section 2.1), in turns.

    b_i = Σ (r − μ − b_u) / (n_i + item_damping), then b_u likewise, `n_epochs` times.

    Parameters
    ----------
    n_epochs : turns, 1 or more
    user_damping, item_damping : so many ratings of 0 error count beside those of a user or an item
    online_rate, online_halving : as in `MatrixFactorization`
    """

    family: ClassVar[str] = "bias"

    hyper_parameters: ClassVar[type[HyperParameters]] = BiasParameters

    @made_of(BiasParameters)
    def __init__(self, parameters: BiasParameters) -> None:
        self.parameters: dict[str, Any] = msgspec.structs.asdict(parameters)

    def _new_learner(self) -> Learner:
        return Learner(
            0,
            0,
            0.0,
            rate=self.parameters["online_rate"],
            halving=self.parameters["online_halving"],
            regularization=0.0,
            feature_regularization=0.0,
            weight_regularization=0.02,
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
        validation, patience : not looked at, the turns converge
        on_epoch : called as `on_epoch(done, epochs, rmse)` after each turn, with the RMSE of the training ratings

        Raises `InvalidInput` when the columns disagree or are empty, or an id or a rating is not valid.
        """
        if self.n_users:
            raise InvalidInput("The model is fitted already; make a new one.")
        if user_features is not None or item_features is not None or features is not None:
            raise InvalidInput(f"The family {self.family} takes no features.")
        values = rating_column(ratings)
        user_ids, user_rows = index_ids(users, "users")
        item_ids, item_rows = index_ids(items, "items")
        if not user_rows.size == item_rows.size == values.size:
            raise InvalidInput("There must be as many users as items as ratings.")
        given, scale = self.parameters, RatingScale.of(values)
        user_counts = np.bincount(user_rows, minlength=len(user_ids))
        item_counts = np.bincount(item_rows, minlength=len(item_ids))
        user_biases, item_biases = np.zeros(len(user_ids)), np.zeros(len(item_ids))
        rest = values - scale.mean
        for epoch in range(given["n_epochs"]):
            sums = np.bincount(item_rows, rest - user_biases[user_rows], len(item_ids))
            item_biases = sums / (item_counts + given["item_damping"])
            sums = np.bincount(user_rows, rest - item_biases[item_rows], len(user_ids))
            user_biases = sums / (user_counts + given["user_damping"])
            if on_epoch is not None:
                errors = rest - user_biases[user_rows] - item_biases[item_rows]
                on_epoch(epoch + 1, given["n_epochs"], float(np.sqrt((errors**2).mean())))
        parts = (
            np.zeros((len(user_ids), 0), np.float32),
            np.zeros((len(item_ids), 0), np.float32),
            user_biases.astype(np.float32),
            item_biases.astype(np.float32),
        )
        counts = user_counts.astype(np.int32), item_counts.astype(np.int32)
        for array in (*parts, *counts):
            array.flags.writeable = False
        self.rating_unit = scale.unit
        self._set(scale.mean, *parts, user_ids, item_ids, *counts)
        return self
