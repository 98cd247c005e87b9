"""What a model family is to the rest: a protocol, so that the way of a request knows none of them by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.models.artifact import Artifact

Id = str | int
OnEpoch = Callable[[int, int, float], object]


@runtime_checkable
class Model(Protocol):
    """Scores (user, item) pairs. Ids are str; an int is its decimal text, so 12 and "12" are one id.

    Every score is finite. A user or an item that was never seen is not an error: it is scored with what is
    known. Scoring does not await, block or change the model, and may be called from many threads.
    """

    family: ClassVar[str]

    @property
    def n_users(self) -> int: ...
    @property
    def n_items(self) -> int: ...
    @property
    def nbytes(self) -> int:
        """Bytes that the model holds or maps."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The hyper-parameters it was trained with, as JSON."""
        ...

    def knows(self, user_id: Id, item_id: Id) -> bool:
        """Whether training saw all that the family would use for this pair."""
        ...

    def predict(self, user_id: Id, item_id: Id) -> float: ...
    def predict_many(self, user_ids: Sequence[Id], item_ids: Sequence[Id]) -> NDArray[np.float64]:
        """(n,) scores of n pairs."""
        ...

    def predict_items(self, user_id: Id, item_ids: Sequence[Id]) -> NDArray[np.float64]:
        """(n,) scores of n items for one user."""
        ...

    def top_k(self, user_id: Id, k: int = 10, exclude: Collection[Id] = ()) -> list[tuple[str, float]]:
        """The k items with the highest score, best first, ties by item id; fewer when fewer are left."""
        ...

    def fit(
        self, users: ArrayLike, items: ArrayLike, ratings: ArrayLike, *, on_epoch: OnEpoch | None = None
    ) -> Self:
        """Learns from n ratings (ids and finite numbers), once. Calls `on_epoch(done, epochs, rmse)`."""
        ...

    def save(self, path: str | os.PathLike[str]) -> None: ...
    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self: ...
    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """The model on the mapped tensors. Raises `InvalidArtifact` if they are not this family's."""
        ...
