"""Base of the families whose scores are μ + b_u + b_i + p_u·q_i: serving, further learning, files."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidArtifact, InvalidInput
from bandit_serve.models import artifact as artifacts
from bandit_serve.models._factorization import Factorization
from bandit_serve.models._ids import IdTable, id_text
from bandit_serve.models._learner import Learner
from bandit_serve.models.artifact import Artifact
from bandit_serve.models.columns import TOO_LARGE, check_ranking, id_column, rating_column
from bandit_serve.models.hyper_parameters import HyperParameters
from bandit_serve.models.ids import id_tensors, read_ids
from bandit_serve.models.model import Features, Id
from bandit_serve.models.ranges import Space
from bandit_serve.models.rating_scale import MAX_UNIT, MIN_UNIT
from bandit_serve.models.row_learner import RowLearner
from bandit_serve.models.search_tables import check_search_tables

# With so many ratings, half of what an id's own parameters could say is known.
HALF_KNOWN = 10
# With so many items, what top-k searches need is in the file, so that all workers share it and none computes it.
SEARCHABLE = 1 << 15
TOP_K_DTYPES = {
    "order": "I32",
    "codes": "U8",
    "scales": "F32",
    "norms": "F32",
    "errors": "F32",
    "biases": "F32",
}


class Factorized(Factorization):
    """A base class: a family says how it is fitted, and gives a learner that goes on from there.

    `rating_unit` is the unit of the ratings that it was fitted to (`RatingScale`), in which all parameters are kept
    and served: `partial_fit` goes on in it. It is 1 before a model was fitted, and in files that do not say.
    """

    family: ClassVar[str]
    takes_features: ClassVar[bool] = False
    scores_are_ratings: ClassVar[bool] = True
    hyper_parameters: ClassVar[type[HyperParameters]]
    search_space: ClassVar[Space] = {}
    trained_by_default: ClassVar[bool] = False
    parameters: dict[str, Any]
    rating_unit: float = 1.0

    def numbers_among(self, names: Iterable[str]) -> set[str]:
        return set()

    def _new_learner(self) -> RowLearner:
        raise NotImplementedError

    def predict_many(
        self,
        user_ids: Sequence[Id],
        item_ids: Sequence[Id],
        features: Sequence[Features] | None = None,
    ) -> NDArray[np.float64]:
        """(n,) float64: the predicted rating of each pair; user_ids, item_ids: n str or int each.

        features: n mappings of what comes with each request, in a family that takes features.
        """
        if features is None:
            return self._pairs(user_ids, item_ids)
        if not len(user_ids) == len(item_ids) == len(features):
            raise InvalidInput("There must be as many items, and features, as users.")
        pairs = zip(user_ids, item_ids, features, strict=True)
        return np.array([self.predict(user, item, own) for user, item, own in pairs], np.float64)

    def predict_items(
        self, user_id: Id, item_ids: Sequence[Id], features: Features | None = None
    ) -> NDArray[np.float64]:
        """(n,) float64: the predicted rating of one user for each of n items."""
        return self._items(user_id, item_ids, self._query(user_id, features))

    def top_k(
        self,
        user_id: Id,
        k: int = 10,
        exclude: Collection[Id] = (),
        features: Features | None = None,
        among: Collection[Id] | None = None,
    ) -> list[tuple[str, float]]:
        """Ranking of the k items with the highest predicted rating: [(item_id, score)], best first, ties by item id.

        k: 1 or more; fewer come back when fewer are left. exclude: ids not to rank; among: the only ids to rank;
        unknown ones are ignored. For a user never seen the ranking is by what is known of the items.
        """
        check_ranking(k, exclude, among)
        vectors, bases, items = self._asked([user_id], [self._query(user_id, features)])
        skip = _skipped(items, exclude, among)
        rows, scores = self._top().search(vectors, bases, k, [skip])[0]
        return list(zip(map(items.name, rows.tolist()), scores.tolist(), strict=True))

    def top_k_many(
        self, user_ids: Sequence[Id], k: int = 10, exclude: Sequence[Collection[Id]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """`top_k` of each of n users; exclude: n collections of ids."""
        if exclude is not None and len(exclude) != len(user_ids):
            raise InvalidInput("There must be as many collections to exclude as users.")
        for own in exclude or ((),):
            check_ranking(k, own, None)
        vectors, bases, items = self._asked(list(user_ids))
        skips = None if exclude is None else [_skipped(items, own, None) for own in exclude]
        results = self._top().search(vectors, bases, k, skips)
        return [
            list(zip(map(items.name, rows.tolist()), scores.tolist(), strict=True))
            for rows, scores in results
        ]

    def target(self, rating: float) -> float:
        """Rating itself."""
        return rating

    def confidence(self, user_id: Id, item_id: Id, features: Features | None = None) -> float:
        """Confidence in a pair, 0 (neither was seen) to 1: the mean of n / (n + 10) over user and item,
        where n is how many ratings of each were learned from."""
        if self._learner is not None:
            known = (
                (self._learner.users, self._learner.users.ids.row(user_id)),
                (self._learner.items, self._learner.items.ids.row(item_id)),
            )
            counts = [int(rows.counts[row]) if row >= 0 else 0 for rows, row in known]
        else:
            user, item = self.user_row(user_id), self.item_row(item_id)
            counts = [int(self.user_counts[user]) if user >= 0 else 0]
            counts.append(int(self.item_counts[item]) if item >= 0 else 0)
        return sum(count / (count + HALF_KNOWN) for count in counts) / 2

    def _learn(self, users: Any, items: Any, ratings: Any, features: Any) -> Self:
        learner = self._learner
        if learner is None:
            learner = self._learner = self._thawed()
        if not isinstance(ratings, int | float):
            self._learn_many(learner, users, items, ratings, features)
        elif features is None:
            learner.learn(users, items, ratings)
        else:
            self._learn_one(learner, users, items, ratings, features)
        self._stale = True
        return self

    def _learn_one(
        self,
        learner: RowLearner,
        user: Any,
        item: Any,
        rating: float,
        features: Features | Sequence[Features],
    ) -> None:
        id_text(user), id_text(item)
        if not np.isfinite(rating):
            raise InvalidInput(TOO_LARGE)
        columns = self._request_columns(features, learn=True)
        assert isinstance(learner, Learner)
        learner.learn(user, item, rating, *columns)

    def _learn_many(self, learner: RowLearner, users: Any, items: Any, ratings: Any, features: Any) -> None:
        values = rating_column(ratings).tolist()
        user_ids, item_ids = id_column(users, "users"), id_column(items, "items")
        if not len(user_ids) == len(item_ids) == len(values):
            raise InvalidInput("There must be as many users as items as ratings.")
        if features is None:
            for user, item, value in zip(user_ids, item_ids, values, strict=True):
                learner.learn(user, item, value)
            return
        if isinstance(features, Mapping) or len(features) != len(values):
            raise InvalidInput("There must be as many features as ratings.")
        for own in features:
            self._request_columns(own, learn=False)
        assert isinstance(learner, Learner)
        for user, item, value, own in zip(user_ids, item_ids, values, features, strict=True):
            learner.learn(user, item, value, *self._request_columns(own, learn=True))

    def _request_columns(
        self, features: Any, *, learn: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        raise InvalidInput(f"The family {self.family} takes no features.")

    def _query(self, user_id: Id, features: Features | None) -> tuple[float, NDArray[np.float32]] | None:
        if features is None:
            return None
        columns = self._request_columns(features, learn=False)
        row = self.user_row(user_id)  # settles what was learned
        known = row >= 0
        s = float(self.user_biases[row]) if known else 0.0
        t = self.user_factors[row] if known else np.zeros(self.parameters["n_factors"], np.float32)
        return self._described().joined(s, t, *columns)

    def _described(self) -> Learner:
        """Learner that knows the features' parameters."""
        raise NotImplementedError

    def _predict_slowly(self, user_id: Id, item_id: Id, features: Features | None) -> float:
        if features is None:
            assert self._learner is not None
            return self._learner.predict(user_id, item_id)
        return float(self.predict_items(user_id, [item_id], features)[0])

    def _thawed(self) -> RowLearner:
        """Learner that goes on from the fitted parameters, or from nothing."""
        learner = self._new_learner()
        if self.n_users:
            learner.mean = self.mean
            learner.users.take(self.user_ids, self.user_factors, self.user_biases, self.user_counts)
            learner.items.take(self.item_ids, self.item_factors, self.item_biases, self.item_counts)
            learner.n_ratings = int(self.user_counts.sum(dtype=np.int64))
        return learner

    def _settle(self) -> None:
        """Takes the parameters from the learner."""
        learner = self._learner
        assert learner is not None
        parts: dict[str, Any] = {}
        for what, rows in (("user", learner.users), ("item", learner.items)):
            table, order = rows.ids.table()
            weights, vectors = learner.sides(f"{what}s")
            parts |= {
                f"{what}_factors": vectors[order],
                f"{what}_biases": weights[order],
                f"{what}_ids": table,
                f"{what}_counts": rows.trimmed("counts")[order],
            }
        for part in parts.values():
            if isinstance(part, np.ndarray):
                part.flags.writeable = False
        self._set(learner.mean, **parts)

    def _tensors(self) -> dict[str, NDArray[Any]]:
        return {
            "mean": np.array([self.mean]),
            "rating_unit": np.array([self.rating_unit]),
            "user_factors": self.user_factors,
            "item_factors": self.item_factors,
            "user_biases": self.user_biases,
            "item_biases": self.item_biases,
            "user_counts": self.user_counts,
            "item_counts": self.item_counts,
            **id_tensors(self.user_ids, "user"),
            **id_tensors(self.item_ids, "item"),
            **self._top_k_tensors(),
        }

    def _top_k_tensors(self) -> dict[str, NDArray[Any]]:
        if self.n_items < SEARCHABLE:
            return {}
        return {f"top_k_{name}": part for name, part in self._top().parts().items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model as a safetensors file, whole or not at all."""
        if not self.n_users:
            raise InvalidInput("The model is not fitted.")
        artifacts.write(path, self.family, self.parameters, self._tensors())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Model in a file that `save` wrote, mapped. Raises `InvalidArtifact`, `NotFound`."""
        return cls.from_artifact(Artifact.map(path))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Model on the mapped tensors. Raises `InvalidArtifact` if they are not this family's."""
        if artifact.family != cls.family:
            raise InvalidArtifact(f"The artifact's family is not {cls.family}.")
        unknown = set(artifact.parameters) - set(cls.hyper_parameters.__struct_fields__)
        if unknown:
            raise InvalidArtifact(f"The family {cls.family} has no parameter {min(unknown)!r}.")
        try:
            model = cls(**artifact.parameters)
        except InvalidInput as error:
            raise InvalidArtifact(f"The artifact's parameters are not this family's: {error}") from None
        user_ids, item_ids = read_ids(artifact, "user"), read_ids(artifact, "item")
        if "rating_unit" in artifact.tensors:
            model.rating_unit = float(artifact.tensor("rating_unit", "F64", [1])[0])
        if not MIN_UNIT <= model.rating_unit <= MAX_UNIT:
            raise InvalidArtifact("The artifact cannot be served: its rating_unit is not a positive number.")
        n_factors = model.parameters.get("n_factors", 0)
        counts = [
            artifact.tensor(f"{what}_counts", "I32", [len(ids)])
            for what, ids in (("user", user_ids), ("item", item_ids))
        ]
        if any(each.size and each.min() < 0 for each in counts):
            raise InvalidArtifact("The artifact cannot be served: a count is negative.")
        try:
            model._set(
                float(artifact.tensor("mean", "F64", [1])[0]),
                artifact.tensor("user_factors", "F32", [len(user_ids), n_factors]),
                artifact.tensor("item_factors", "F32", [len(item_ids), n_factors]),
                artifact.tensor("user_biases", "F32", [len(user_ids)]),
                artifact.tensor("item_biases", "F32", [len(item_ids)]),
                user_ids,
                item_ids,
                *counts,
            )
            if "top_k_order" in artifact.tensors:
                model._take_top(
                    {
                        name: artifact.tensor(f"top_k_{name}", dtype, [None])
                        for name, dtype in TOP_K_DTYPES.items()
                    }
                )
        except InvalidArtifact:
            raise
        except InvalidInput as error:
            raise InvalidArtifact(f"The artifact cannot be served: {error}") from None
        model._take(artifact)
        return model

    def check_search_tables(self, artifact: Artifact) -> None:
        """Raise `InvalidArtifact` if the model's file has search tables of other factors. Reads all of it."""
        if "top_k_order" in artifact.tensors:
            check_search_tables(self.item_factors, self.item_biases, self._top().parts())

    def _take(self, artifact: Artifact) -> None:
        """Reads what else a family keeps in its files."""


def _skipped(
    items: IdTable, exclude: Collection[Id], among: Collection[Id] | None
) -> NDArray[np.uint8] | None:
    """Mask of the rows that are not to be ranked, uint8 (n_items,); None where all are."""
    exclude = list(exclude)
    if not exclude and among is None:
        return None
    skip = np.zeros(len(items), np.uint8)
    if among is not None:
        skip[:] = 1
        rows = items.rows(list(among))
        skip[rows[rows >= 0]] = 0
    rows = items.rows(exclude)
    skip[rows[rows >= 0]] = 1
    return skip
