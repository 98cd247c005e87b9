"""Factorization machine over users, items and features of both and of requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidArtifact, InvalidInput
from bandit_serve.models._learner import Learner, Rows
from bandit_serve.models.artifact import Artifact
from bandit_serve.models.columns import id_column, rating_column
from bandit_serve.models.descent import OnEpoch, Schedule, descend
from bandit_serve.models.factorized import Factorized
from bandit_serve.models.feature_columns import ColumnValues, FeatureColumns
from bandit_serve.models.hyper_parameters import (
    Epochs,
    Factors,
    HyperParameters,
    Penalty,
    Rate,
    Seed,
    made_of,
    whole,
)
from bandit_serve.models.ids import id_tensors, read_ids
from bandit_serve.models.model import Features, FeaturesById, Id, Validation
from bandit_serve.models.ranges import LogUniform, Space
from bandit_serve.models.rating_scale import RatingScale

SIDES = ("user", "item")
MAX_HASHED = 2**20


class MachineParameters(HyperParameters, frozen=True):
    n_factors: Factors = 32
    seed: Seed = 0
    n_epochs: Epochs = 40
    learning_rate: Rate = 0.02
    final_learning_rate: Rate = 0.002
    regularization: Penalty = 0.08
    feature_regularization: Penalty = 0.02
    weight_regularization: Penalty = 0.05
    init_std: Penalty = 0.03
    hashed: Mapping[str, int] | None = None
    online_rate: Rate = 0.1
    online_halving: Rate = 100.0

    @classmethod
    def checked(cls, name: str, value: Any, at: str = "") -> Any:
        return _hashed(at + name, value or {}) if name == "hashed" else super().checked(name, value, at)


class FactorizationMachine(Factorized):
    """r̂ = μ + Σ w_c x_c + Σ_{c<d} v_c·v_d x_c x_d over the columns of a rating (Rendle 2010, eq. 1), by SGD.

    Its columns are the user, the item, the features of the user, of the item, and of the request. Features of users
    and items are kept in the model, so that a prediction needs ids only. It is served as the matrix factorization
    that it is equal to (see `_learner`), at that one's speed.

    Parameters
    ----------
    n_factors : 1 to 4,096; the length of v_c
    seed : 0 or more; the same seed and data give the same model, bit for bit, for one build
    n_epochs : passes over the ratings, 1 or more
    learning_rate, final_learning_rate : of the first and the last epoch, geometric in between
    regularization, feature_regularization, weight_regularization : the weight of the L2 penalty, per rating, on the
        vectors of users and items, on those of features, and on all w_c
    init_std : standard deviation of the normal that vectors start from
    hashed : features whose values share so many columns, by a hash: {"item:title": 1000}
    online_rate, online_halving : of `partial_fit`: a column that has learned from n ratings moves by
        online_rate / √(1 + n / online_halving) times the gradient

    A step is divided by 1 + rate · |gradient|², so that no rate and no rating makes it overshoot. Rates, penalties and
    `init_std` are meant for ratings whose spread is that of stars; others are scaled to it inside, and scores are in
    the unit of the ratings that it was fitted to. The defaults are tuned for 5-fold RMSE on MovieLens' small set with
    genres.
    """

    family: ClassVar[str] = "factorization_machine"
    takes_features: ClassVar[bool] = True

    hyper_parameters: ClassVar[type[HyperParameters]] = MachineParameters
    search_space: ClassVar[Space] = {
        "n_factors": [16, 32, 64],
        "regularization": LogUniform(0.05, 0.12),
        "feature_regularization": LogUniform(0.005, 0.05),
    }
    trained_by_default: ClassVar[bool] = True

    @made_of(MachineParameters)
    def __init__(self, parameters: MachineParameters) -> None:
        self.parameters: dict[str, Any] = msgspec.structs.asdict(parameters)
        self._columns: FeatureColumns | None = None
        # The parameters that serving does not need, of a model that was loaded: read when it learns.
        self._raw: dict[str, Any] = {}
        self._resting: Learner | None = None

    _learner: Learner | None  # no other takes features

    def _new_learner(self) -> Learner:
        given = self.parameters
        return Learner(
            given["n_factors"],
            given["seed"],
            given["init_std"],
            rate=given["online_rate"],
            halving=given["online_halving"],
            regularization=given["regularization"],
            feature_regularization=given["feature_regularization"],
            weight_regularization=given["weight_regularization"],
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
        user_features, item_features : features by id; a number is standardised, a str or bool is a category, a list
            of str is several. Those of items without ratings are kept, too: such items are scored by them
        features : n mappings of the same kind, of the requests
        validation : (users, items, ratings) or (…, features) that are not learned from: the epoch that predicts them
            best is kept, and there are no more than `patience` (a quarter of `n_epochs`, 3 at least) after it
        on_epoch : called as `on_epoch(done, epochs, rmse)` after each epoch; the RMSE is that of the validation
            set, or else of the training ratings, each before its own update

        Raises `InvalidInput` when the columns disagree or are empty, an id, a rating or a feature is not valid, or
        the descent diverged.
        """
        if self.n_users:
            raise InvalidInput("The model is fitted already; make a new one.")
        values = rating_column(ratings)
        user_ids, item_ids = id_column(users, "users"), id_column(items, "items")
        if not len(user_ids) == len(item_ids) == values.size:
            raise InvalidInput("There must be as many users as items as ratings.")
        if features is not None and (isinstance(features, Mapping) or len(features) != values.size):
            raise InvalidInput("There must be as many features as ratings.")
        scale = RatingScale.of(values)
        self.rating_unit = scale.unit
        learner = self._new_learner()
        columns = FeatureColumns(learner.features, self.parameters["hashed"])
        rows = _rows(learner.users, user_ids), _rows(learner.items, item_ids)
        for side, block, described in (
            ("user", learner.users, user_features or {}),
            ("item", learner.items, item_features or {}),
        ):
            columns.scale(side, described.values())
            for one, own in described.items():
                block.describe(block.add(one), *columns.columns(side, own, learn=True))
        if features is not None:
            columns.scale("request", features)
        requests = _requests(columns, features, values.size, learn=True)
        learner.n_ratings = values.size
        learner.count_all(*rows, *requests[:2])
        held_out = None
        if validation is not None:
            held_out = _held_out(learner, columns, validation, scale)
        given, generator = self.parameters, np.random.Generator(np.random.PCG64(self.parameters["seed"]))
        blocks = (learner.users, learner.items, learner.features)
        centred = scale.centred(values)
        descend(
            Schedule(given["n_epochs"], given["learning_rate"], given["final_learning_rate"]),
            lambda rate: learner.epoch(rows[0], rows[1], centred, *requests, generator, rate),
            lambda: [array for block in blocks for array in (block.vectors, block.weights)],
            validate=None if held_out is None else lambda: learner.errors(*held_out),
            patience=patience,
            on_epoch=on_epoch,
        )
        learner.mean = scale.mean
        self._columns, self._learner = columns, learner
        self._settle()
        # Served from the settled parameters until it learns again.
        self._learner, self._resting = None, learner
        return self

    def numbers_among(self, names: Iterable[str]) -> set[str]:
        if self._columns is None:
            self._described()
        assert self._columns is not None
        return {name for name in names if self._columns.is_number("request", name)}

    def _request_columns(self, features: Any, *, learn: bool) -> ColumnValues:
        if self._columns is None:
            self._described()
        assert self._columns is not None
        return self._columns.columns("request", features, learn=learn)

    def _described(self) -> Learner:
        learner = self._learner or self._resting
        if learner is None:
            learner = self._resting = self._new_learner()
            self._columns = FeatureColumns(learner.features, self.parameters["hashed"])
        return learner

    def _thawed(self) -> Learner:
        learner = self._described()
        if not self.n_users or learner.users.size:
            return learner
        raw = self._raw
        learner.mean, learner.n_ratings = self.mean, int(self.user_counts.sum(dtype=np.int64))
        for side, block, ids, counts in (
            ("user", learner.users, self.user_ids, self.user_counts),
            ("item", learner.items, self.item_ids, self.item_counts),
        ):
            vectors, weights = raw[f"{side}_parameters"]
            block.take(ids, vectors, weights, counts)
            block.attach(*raw[f"{side}_attached"])
        return learner

    def _tensors(self) -> dict[str, NDArray[Any]]:
        tensors, learner = super()._tensors(), self._learner or self._thawed()
        assert self._columns is not None
        table, order = learner.features.ids.table()
        scales = [self._columns.scales.get(table.name(row), (0.0, 0.0)) for row in range(len(table))]
        place = np.empty(len(order) + 1, np.int32)
        place[order], place[-1] = np.arange(len(order)), -1
        tensors |= {
            **id_tensors(table, "feature"),
            "feature_vectors": learner.features.trimmed("vectors")[order],
            "feature_weights": learner.features.trimmed("weights")[order],
            "feature_counts": learner.features.trimmed("counts")[order],
            "feature_scales": np.array(scales, np.float64).reshape(len(table), 2),
        }
        for side, block in (("user", learner.users), ("item", learner.items)):
            _, order = block.ids.table()
            starts, attached, values = block.attached(order)
            tensors |= {
                f"{side}_feature_starts": starts,
                f"{side}_features": place[attached],
                f"{side}_feature_values": values,
            }
            if attached.size:
                tensors |= {
                    f"{side}_vectors": block.trimmed("vectors")[order],
                    f"{side}_weights": block.trimmed("weights")[order],
                }
        return tensors

    def _take(self, artifact: Artifact) -> None:
        n_factors = self.parameters["n_factors"]
        table = read_ids(artifact, "feature")
        n = len(table)
        parts = (
            artifact.tensor("feature_vectors", "F32", [n, n_factors]),
            artifact.tensor("feature_weights", "F32", [n]),
            artifact.tensor("feature_counts", "I32", [n]),
        )
        _check_finite(*parts[:2])
        scales = artifact.tensor("feature_scales", "F64", [n, 2])
        if not np.isfinite(scales).all() or (scales[:, 1] < 0.0).any():
            raise InvalidArtifact("The artifact cannot be served: a feature's scale is not a finite number.")
        self._described().features.take(table, *parts)
        assert self._columns is not None
        self._columns.scales = {
            table.name(row): (float(scales[row, 0]), float(scales[row, 1]))
            for row in np.flatnonzero(scales[:, 1] > 0.0).tolist()
        }
        for side, ids, factors, biases in (
            ("user", self.user_ids, self.user_factors, self.user_biases),
            ("item", self.item_ids, self.item_factors, self.item_biases),
        ):
            starts = artifact.tensor(f"{side}_feature_starts", "I64", [len(ids) + 1])
            attached = artifact.tensor(f"{side}_features", "I32", [None])
            values = artifact.tensor(f"{side}_feature_values", "F32", [attached.size])
            _check_attached(side, starts, attached, values, n)
            own = factors, biases
            if attached.size:
                own = (
                    artifact.tensor(f"{side}_vectors", "F32", [len(ids), n_factors]),
                    artifact.tensor(f"{side}_weights", "F32", [len(ids)]),
                )
                _check_finite(*own)
            self._raw |= {f"{side}_parameters": own, f"{side}_attached": (starts, attached, values)}


def _hashed(at: str, hashed: object) -> dict[str, int]:
    if not isinstance(hashed, Mapping) or not all(isinstance(name, str) for name in hashed):
        raise InvalidInput(f"{at} must be an object of feature names and numbers of columns.")
    return {name: whole(f"{at}[{name!r}]", columns, 1, MAX_HASHED) for name, columns in hashed.items()}


def _rows(block: Rows, ids: list[Id]) -> NDArray[np.int32]:
    return np.fromiter((block.add(one) for one in ids), np.int32, len(ids))


def _requests(
    columns: FeatureColumns, features: Sequence[Features] | None, n: int, *, learn: bool
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Request features of all samples one after another: starts int64 (n + 1,), columns int32 and values float32."""
    if features is None:
        return np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    if isinstance(features, Mapping) or len(features) != n:
        raise InvalidInput("There must be as many features as ratings.")
    requests = [columns.columns("request", own, learn=learn) for own in features]
    starts = np.zeros(n + 1, np.int64)
    np.cumsum([rows.size for rows, _ in requests], out=starts[1:])
    return (
        starts,
        np.concatenate([rows for rows, _ in requests]),
        np.concatenate([values for _, values in requests]),
    )


def _held_out(
    learner: Learner, columns: FeatureColumns, validation: Validation, scale: RatingScale
) -> tuple[NDArray[Any], ...]:
    values = scale.centred(rating_column(validation[2]))
    rows = [
        np.fromiter((block.ids.row(one) for one in ids), np.int32, len(ids))
        for block, ids in (
            (learner.users, id_column(validation[0], "users")),
            (learner.items, id_column(validation[1], "items")),
        )
    ]
    if not rows[0].size == rows[1].size == values.size:
        raise InvalidInput("There must be as many users as items as ratings.")
    features = validation[3] if len(validation) == 4 else None
    return *rows, values, *_requests(columns, features, values.size, learn=False)


def _check_finite(*tensors: NDArray[np.float32]) -> None:
    if not all(np.isfinite(tensor).all() for tensor in tensors):
        raise InvalidArtifact("The artifact cannot be served: a parameter is not finite.")


def _check_attached(
    side: str, starts: NDArray[np.int64], attached: NDArray[np.int32], values: NDArray[np.float32], n: int
) -> None:
    """Raise `InvalidArtifact` unless the features attached to rows exist."""
    _check_finite(values)
    if starts[0] != 0 or starts[-1] != attached.size or (np.diff(starts) < 0).any():
        raise InvalidArtifact(f"The artifact's {side} features do not fit their {side}s.")
    if attached.size and not 0 <= int(attached.min()) <= int(attached.max()) < n:
        raise InvalidArtifact(f"The artifact's {side} features name one that does not exist.")
