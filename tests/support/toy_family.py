"""Toy family of models in one file: damped means of items, the same for every user."""

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
from bandit_serve.models.hyper_parameters import HyperParameters, Penalty, Rate, made_of
from bandit_serve.models.ids import index_ids
from bandit_serve.models.model import Features, FeaturesById, Validation
from bandit_serve.models.ranges import Space, Uniform
from bandit_serve.models.rating_scale import RatingScale


class ItemMeanParameters(HyperParameters, frozen=True):
    damping: Penalty = 5.0
    online_rate: Rate = 0.1


class ItemMean(Factorized):
    """r̂(u, i) = μ + b_i, b_i = Σ (r − μ) / (n_i + damping)."""

    family: ClassVar[str] = "item_mean"
    hyper_parameters: ClassVar[type[HyperParameters]] = ItemMeanParameters
    search_space: ClassVar[Space] = {"damping": Uniform(1.0, 20.0)}
    trained_by_default: ClassVar[bool] = True

    @made_of(ItemMeanParameters)
    def __init__(self, parameters: ItemMeanParameters) -> None:
        self.parameters: dict[str, Any] = msgspec.structs.asdict(parameters)

    def _new_learner(self) -> Learner:
        return Learner(
            0,
            0,
            0.0,
            rate=self.parameters["online_rate"],
            halving=100.0,
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
        if self.n_users:
            raise InvalidInput("The model is fitted already; make a new one.")
        if user_features is not None or item_features is not None or features is not None:
            raise InvalidInput(f"The family {self.family} takes no features.")
        values = rating_column(ratings)
        user_ids, user_rows = index_ids(users, "users")
        item_ids, item_rows = index_ids(items, "items")
        if not user_rows.size == item_rows.size == values.size:
            raise InvalidInput("There must be as many users as items as ratings.")
        scale = RatingScale.of(values)
        item_counts = np.bincount(item_rows, minlength=len(item_ids))
        sums = np.bincount(item_rows, values - scale.mean, len(item_ids))
        parts = (
            np.zeros((len(user_ids), 0), np.float32),
            np.zeros((len(item_ids), 0), np.float32),
            np.zeros(len(user_ids), np.float32),
            (sums / (item_counts + self.parameters["damping"])).astype(np.float32),
        )
        counts = (
            np.bincount(user_rows, minlength=len(user_ids)).astype(np.int32),
            item_counts.astype(np.int32),
        )
        for array in (*parts, *counts):
            array.flags.writeable = False
        self.rating_unit = scale.unit
        self._set(scale.mean, *parts, user_ids, item_ids, *counts)
        if on_epoch is not None:
            errors = values - scale.mean - parts[3][item_rows]
            on_epoch(1, 1, float(np.sqrt((errors**2).mean())))
        return self
