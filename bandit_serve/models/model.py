"""Model: the protocol of all families, so that no other package knows one by name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.models.artifact import Artifact
from bandit_serve.models.descent import OnEpoch
from bandit_serve.models.hyper_parameters import HyperParameters
from bandit_serve.models.ranges import Space

Id = str | int
Feature = str | float | bool | Sequence[str]
Features = Mapping[str, Feature]
FeaturesById = Mapping[Id, Features]
# users, items, ratings and, where they have them, the features of their requests
Validation = (
    tuple[ArrayLike, ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, ArrayLike, Sequence[Features]]
)


@runtime_checkable
class Model(Protocol):
    """Scores (user, item) pairs. Ids are str; an int is its decimal text, so 12 and "12" are one id.

    Every score is finite. A user or an item that was never seen is not an error: it is scored with what is
    known, and `confidence` says so. Scoring does not await or block, and may be called from many threads; learning
    may not, nor while a thread scores: learn on a copy that was loaded for it.

    `features` are what comes with a request, in a family with `takes_features`; another refuses them with
    `InvalidInput`. In a family whose `scores_are_ratings` a score is in the unit of the ratings; in another it only
    ranks.
    """

    family: ClassVar[str]
    takes_features: ClassVar[bool]
    scores_are_ratings: ClassVar[bool]
    # For training: what it can be made with, what of that is worth a search, and whether it is trained unasked.
    hyper_parameters: ClassVar[type[HyperParameters]]
    search_space: ClassVar[Space]
    trained_by_default: ClassVar[bool]

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
        """Hyper-parameters it was trained with, as JSON."""
        ...

    def numbers_among(self, names: Iterable[str]) -> set[str]:
        """Names of features of a request that the model has learned as numbers."""
        ...

    def knows(self, user_id: Id, item_id: Id) -> bool:
        """Return whether training saw all that the family would use for this pair."""
        ...

    def confidence(self, user_id: Id, item_id: Id, features: Features | None = None) -> float:
        """Share of what the family would use for this pair that is known, from 0 to 1."""
        ...

    def target(self, rating: float) -> float:
        """Score that the family would give to a pair of this rating if it knew it."""
        ...

    def predict(self, user_id: Id, item_id: Id, features: Features | None = None) -> float: ...
    def predict_many(
        self, user_ids: Sequence[Id], item_ids: Sequence[Id], features: Sequence[Features] | None = None
    ) -> NDArray[np.float64]:
        """(n,) scores of n pairs."""
        ...

    def predict_items(
        self, user_id: Id, item_ids: Sequence[Id], features: Features | None = None
    ) -> NDArray[np.float64]:
        """(n,) scores of n items for one user."""
        ...

    def top_k(
        self,
        user_id: Id,
        k: int = 10,
        exclude: Collection[Id] = (),
        features: Features | None = None,
        among: Collection[Id] | None = None,
    ) -> list[tuple[str, float]]:
        """Ranking of the k items with the highest score, best first, ties by item id; fewer when fewer are left.

        `exclude`: items not to rank; `among`: the only items to rank.
        """
        ...

    def top_k_many(
        self, user_ids: Sequence[Id], k: int = 10, exclude: Sequence[Collection[Id]] | None = None
    ) -> list[list[tuple[str, float]]]:
        """`top_k` of each of n users; `exclude`: n collections."""
        ...

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
        """Learns from n ratings (ids and finite numbers), once. Calls `on_epoch(done, epochs, rmse)`.

        With `validation`, the epoch that predicts it best is kept, and no more than `patience` come after it.
        """
        ...

    def partial_fit(
        self,
        users: Id | ArrayLike,
        items: Id | ArrayLike,
        ratings: float | ArrayLike,
        features: Features | Sequence[Features] | None = None,
    ) -> Self:
        """Goes on learning from one rating or from n; users and items may be new."""
        ...

    def save(self, path: str | os.PathLike[str]) -> None: ...
    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self: ...
    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Model on the mapped tensors. Raises `InvalidArtifact` if they are not this family's."""
        ...
