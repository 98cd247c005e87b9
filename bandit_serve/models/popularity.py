"""The most popular items: the baseline that a recommender has to beat."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve._ids import IdTable
from bandit_serve.errors import InvalidArtifact, InvalidInput
from bandit_serve.models import artifact as artifacts
from bandit_serve.models.artifact import Artifact
from bandit_serve.models.columns import rating_column
from bandit_serve.models.ids import id_tensors, index_ids, read_ids
from bandit_serve.models.model import Id

_NO_IDS = IdTable.of([])


class Popularity:
    """An item's score is the number of its ratings, for every user alike; 0 for an item never seen."""

    family: ClassVar[str] = "popularity"

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.n_users = 0
        self.item_ids = _NO_IDS
        self.counts: NDArray[np.int64] = np.zeros(0, np.int64)
        self._ranking: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes + self._ranking.nbytes + self.item_ids.nbytes

    def fit(
        self,
        users: ArrayLike,
        items: ArrayLike,
        ratings: ArrayLike,
        *,
        on_epoch: Callable[[int, int, float], object] | None = None,
    ) -> Self:
        """Counts the ratings of each item; returns the model. A model is fitted once.

        users, items : n ids each, str or int (12 and "12" are one id)
        ratings : n finite numbers, whose values do not matter
        on_epoch : not called, there are no epochs

        Raises `InvalidInput` when the columns disagree or are empty, or an id or a rating is not valid.
        """
        values = rating_column(ratings)
        user_ids, user_rows = index_ids(users, "users")
        item_ids, item_rows = index_ids(items, "items")
        if not user_rows.size == item_rows.size == values.size:
            raise InvalidInput("There must be as many users as items as ratings.")
        self._set(len(user_ids), item_ids, np.bincount(item_rows, minlength=len(item_ids)).astype(np.int64))
        return self

    def _set(self, n_users: int, item_ids: IdTable, counts: NDArray[np.int64]) -> None:
        if self.n_users:
            raise InvalidInput("The model is fitted already; make a new one.")
        self.n_users, self.item_ids, self.counts = n_users, item_ids, counts
        # Rows are in the order of ids, so a stable sort breaks ties by id.
        self._ranking = np.argsort(-counts, kind="stable")

    def knows(self, user_id: Id, item_id: Id) -> bool:
        """Whether the item was seen in training; the user does not matter."""
        return self.item_ids.row(item_id) >= 0

    def predict(self, user_id: Id, item_id: Id) -> float:
        """The number of ratings of the item."""
        self._fitted()
        row = self.item_ids.row(item_id)
        return float(self.counts[row]) if row >= 0 else 0.0

    def predict_many(self, user_ids: Sequence[Id], item_ids: Sequence[Id]) -> NDArray[np.float64]:
        """(n,) float64: the number of ratings of each item."""
        if len(user_ids) != len(item_ids):
            raise InvalidInput("There must be as many items as users.")
        return self.predict_items("", item_ids)

    def predict_items(self, user_id: Id, item_ids: Sequence[Id]) -> NDArray[np.float64]:
        """(n,) float64: the number of ratings of each item."""
        self._fitted()
        rows = self.item_ids.rows(item_ids)
        return np.where(rows >= 0, self.counts[rows], 0).astype(np.float64)

    def top_k(self, user_id: Id, k: int = 10, exclude: Collection[Id] = ()) -> list[tuple[str, float]]:
        """The k items with the most ratings: [(item_id, count)], ties by id; exclude: ids to leave out."""
        self._fitted()
        if k < 1:
            raise InvalidInput("k must be 1 or more.")
        if isinstance(exclude, str | bytes):
            raise InvalidInput("exclude is a collection of ids, not one id.")
        skip = {self.item_ids.row(item_id) for item_id in exclude}
        # Of the first k + |skip| at most |skip| are left out.
        rows = [row for row in self._ranking[: k + len(skip)].tolist() if row not in skip][:k]
        return [(self.item_ids.name(row), float(self.counts[row])) for row in rows]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model as a safetensors file, whole or not at all."""
        self._fitted()
        artifacts.write(
            path,
            self.family,
            self.parameters,
            {"n_users": np.array([self.n_users]), "counts": self.counts, **id_tensors(self.item_ids, "item")},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The model in a file that `save` wrote, mapped. Raises `InvalidArtifact`, `NotFound`."""
        return cls.from_artifact(Artifact.map(path))

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        if artifact.family != cls.family:
            raise InvalidArtifact(f"The artifact's family is not {cls.family}.")
        if artifact.parameters:
            raise InvalidArtifact("The artifact's parameters are not this family's: it has none.")
        item_ids = read_ids(artifact, "item")
        n_users = int(artifact.tensor("n_users", "I64", [1])[0])
        counts = artifact.tensor("counts", "I64", [len(item_ids)])
        if n_users < 1 or not len(item_ids) or counts.min() < 1:
            raise InvalidArtifact("The artifact cannot be served: users, items and counts must be 1 or more.")
        model = cls()
        model._set(n_users, item_ids, counts)
        return model

    def _fitted(self) -> None:
        if not self.n_users:
            raise InvalidInput("The model is not fitted.")
