"""Popularity: ranks items by their number of ratings, a baseline that a recommender has to beat."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidArtifact, InvalidInput
from bandit_serve.models import artifact as artifacts
from bandit_serve.models._ids import GrowingIds
from bandit_serve.models.artifact import Artifact
from bandit_serve.models.columns import check_ranking, id_column, rating_column
from bandit_serve.models.descent import OnEpoch
from bandit_serve.models.hyper_parameters import HyperParameters
from bandit_serve.models.ids import id_tensors, read_ids
from bandit_serve.models.model import Features, FeaturesById, Id, Validation
from bandit_serve.models.ranges import Space

HALF_KNOWN = 10


class Popularity:
    """Scores of items by their numbers of ratings, for every user alike; 0 for an item never seen.

    Which users there were is kept, so that `partial_fit` knows a new one.
    """

    family: ClassVar[str] = "popularity"
    takes_features: ClassVar[bool] = False
    scores_are_ratings: ClassVar[bool] = False
    hyper_parameters: ClassVar[type[HyperParameters]] = HyperParameters
    search_space: ClassVar[Space] = {}
    trained_by_default: ClassVar[bool] = False

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self._users, self._items = GrowingIds(), GrowingIds()
        self._counts: NDArray[np.int64] = np.zeros(64, np.int64)
        # Items by descending count, and then by id; None when ratings have come since.
        self._ranking: NDArray[np.int64] | None = None

    def numbers_among(self, names: Iterable[str]) -> set[str]:
        return set()

    @property
    def n_users(self) -> int:
        return len(self._users)

    @property
    def n_items(self) -> int:
        return len(self._items)

    @property
    def nbytes(self) -> int:
        return self._counts.nbytes + 8 * self.n_items + self._users.nbytes + self._items.nbytes

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
        """Counts the ratings of each item; returns the model. A model is fitted once.

        users, items : n ids each, str or int (12 and "12" are one id)
        ratings : n finite numbers, whose values do not matter
        user_features, item_features, features : refused, this family takes none
        validation, patience, on_epoch : not looked at, there are no epochs

        Raises `InvalidInput` when the columns disagree or are empty, or an id or a rating is not valid.
        """
        if self.n_users:
            raise InvalidInput("The model is fitted already; make a new one.")
        if user_features is not None or item_features is not None:
            raise InvalidInput(f"The family {self.family} takes no features.")
        return self.partial_fit(users, items, rating_column(ratings), features)

    def partial_fit(
        self,
        users: Id | ArrayLike,
        items: Id | ArrayLike,
        ratings: float | ArrayLike,
        features: Features | Sequence[Features] | None = None,
    ) -> Self:
        """Counts one rating or n; returns the model. Raises `InvalidInput`, before anything is counted."""
        if features is not None:
            raise InvalidInput(f"The family {self.family} takes no features.")
        one = isinstance(ratings, int | float)
        values = rating_column(np.atleast_1d(ratings) if one else ratings)
        user_ids = id_column([users] if one else users, "users")
        item_ids = id_column([items] if one else items, "items")
        if not len(user_ids) == len(item_ids) == values.size:
            raise InvalidInput("There must be as many users as items as ratings.")
        for user in user_ids:
            self._users.add(user)
        rows = np.fromiter((self._items.add(item) for item in item_ids), np.int64, len(item_ids))
        if len(self._items) > self._counts.size:
            room = np.zeros(max(len(self._items), 2 * self._counts.size), np.int64)
            room[: self._counts.size] = self._counts
            self._counts = room
        np.add.at(self._counts, rows, 1)
        self._ranking = None
        return self

    def knows(self, user_id: Id, item_id: Id) -> bool:
        """Return whether the item was seen in training; the user does not matter."""
        return self._items.row(item_id) >= 0

    def confidence(self, user_id: Id, item_id: Id, features: Features | None = None) -> float:
        """Confidence n / (n + 10), where n is the number of ratings of the item."""
        count = self.predict(user_id, item_id, features)
        return count / (count + HALF_KNOWN)

    def target(self, rating: float) -> float:
        """Rating itself, which no number of ratings comes near: errors of this family mean nothing."""
        return rating

    def predict(self, user_id: Id, item_id: Id, features: Features | None = None) -> float:
        """Number of ratings of the item."""
        self._fitted(features)
        row = self._items.row(item_id)
        return float(self._counts[row]) if row >= 0 else 0.0

    def predict_many(
        self, user_ids: Sequence[Id], item_ids: Sequence[Id], features: Sequence[Features] | None = None
    ) -> NDArray[np.float64]:
        """(n,) float64: the number of ratings of each item."""
        if len(user_ids) != len(item_ids):
            raise InvalidInput("There must be as many items as users.")
        self._fitted(features)
        return self.predict_items("", item_ids)

    def predict_items(
        self, user_id: Id, item_ids: Sequence[Id], features: Features | None = None
    ) -> NDArray[np.float64]:
        """(n,) float64: the number of ratings of each item."""
        self._fitted(features)
        rows = np.array([self._items.row(item) for item in list(item_ids)], np.int64)
        return np.where(rows >= 0, self._counts[rows], 0).astype(np.float64)

    def top_k(
        self,
        user_id: Id,
        k: int = 10,
        exclude: Collection[Id] = (),
        features: Features | None = None,
        among: Collection[Id] | None = None,
    ) -> list[tuple[str, float]]:
        """Ranking of the k items with the most ratings: [(item_id, count)], ties by id; exclude: ids to leave out."""
        self._fitted(features)
        check_ranking(k, exclude, among)
        skip = {self._items.row(item_id) for item_id in exclude}
        only = None if among is None else {self._items.row(item_id) for item_id in among}
        rows = []
        for row in self._ranked().tolist():
            if row not in skip and (only is None or row in only):
                rows.append(row)
                if len(rows) == k:
                    break
        return [(self._items.name(row), float(self._counts[row])) for row in rows]

    def top_k_many(
        self, user_ids: Sequence[Id], k: int = 10, exclude: Sequence[Collection[Id]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """`top_k` of each of n users; exclude: n collections of ids."""
        if exclude is not None and len(exclude) != len(user_ids):
            raise InvalidInput("There must be as many collections to exclude as users.")
        own = exclude if exclude is not None else [()] * len(user_ids)
        return [self.top_k(user, k, skip) for user, skip in zip(user_ids, own, strict=True)]

    def _ranked(self) -> NDArray[np.int64]:
        if self._ranking is None:
            _, order = self._items.table()
            # Rows in the order of ids, so a stable sort breaks ties by id.
            self._ranking = order[np.argsort(-self._counts[order], kind="stable")]
        return self._ranking

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model as a safetensors file, whole or not at all."""
        self._fitted(None)
        users, _ = self._users.table()
        items, order = self._items.table()
        tensors = {"counts": self._counts[order], **id_tensors(users, "user"), **id_tensors(items, "item")}
        artifacts.write(path, self.family, self.parameters, tensors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Model in a file that `save` wrote. Raises `InvalidArtifact`, `NotFound`."""
        return cls.from_artifact(Artifact.map(path))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        if artifact.family != cls.family:
            raise InvalidArtifact(f"The artifact's family is not {cls.family}.")
        if artifact.parameters:
            raise InvalidArtifact("The artifact's parameters are not this family's: it has none.")
        users, items = read_ids(artifact, "user"), read_ids(artifact, "item")
        counts = artifact.tensor("counts", "I64", [len(items)])
        if not len(users) or not len(items) or counts.min() < 1 or counts.max() > 2**53:
            raise InvalidArtifact("The artifact cannot be served: users, items and counts must be 1 or more.")
        model = cls()
        model._users, model._items, model._counts = (
            GrowingIds.of(users),
            GrowingIds.of(items),
            np.array(counts),
        )
        return model

    def _fitted(self, features: Any) -> None:
        if features is not None:
            raise InvalidInput(f"The family {self.family} takes no features.")
        if not self.n_users:
            raise InvalidInput("The model is not fitted.")
