from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from bandit_serve.models._ids import GrowingIds, IdTable

MAX_RATING: float
MAX_FEATURES: int

@disjoint_base
class Rows:
    @property
    def ids(self) -> GrowingIds: ...
    @property
    def vectors(self) -> NDArray[np.float32]: ...
    @property
    def weights(self) -> NDArray[np.float32]: ...
    @property
    def counts(self) -> NDArray[np.int32]: ...
    @property
    def starts(self) -> NDArray[np.int64]: ...
    @property
    def ends(self) -> NDArray[np.int64]: ...
    @property
    def pool(self) -> NDArray[np.int32]: ...
    @property
    def values(self) -> NDArray[np.float32]: ...
    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __new__(cls, factors: int, seed: int, std: float) -> Self: ...
    def add(self, key: str | int) -> int: ...
    def take(
        self,
        table: IdTable,
        vectors: NDArray[np.float32],
        weights: NDArray[np.float32],
        counts: NDArray[np.int32],
    ) -> None: ...
    def attached(
        self, order: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]: ...
    def attach(
        self, starts: NDArray[np.int64], features: NDArray[np.int32], values: NDArray[np.float32]
    ) -> None: ...
    def describe(self, row: int, features: NDArray[np.int32], values: NDArray[np.float32]) -> None: ...
    def trimmed(self, name: str) -> NDArray[Any]: ...

@disjoint_base
class Learner:
    mean: float
    n_ratings: int
    @property
    def scale(self) -> float: ...
    @property
    def users(self) -> Rows: ...
    @property
    def items(self) -> Rows: ...
    @property
    def features(self) -> Rows: ...
    @property
    def factors(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __init__(
        self,
        factors: int,
        seed: int,
        std: float,
        *,
        rate: float,
        halving: float,
        regularization: float,
        feature_regularization: float,
        weight_regularization: float,
        scale: float = 1.0,
    ) -> None: ...
    def predict(
        self,
        user_id: str | int,
        item_id: str | int,
        feature_rows: NDArray[np.int32] | None = None,
        feature_values: NDArray[np.float32] | None = None,
    ) -> float: ...
    def joined(
        self,
        s: float,
        user: NDArray[np.float32],
        feature_rows: NDArray[np.int32],
        feature_values: NDArray[np.float32],
    ) -> tuple[float, NDArray[np.float32]]: ...
    def sides(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
    def learn(
        self,
        user_id: Any,
        item_id: Any,
        rating: float,
        feature_rows: NDArray[np.int32] | None = None,
        feature_values: NDArray[np.float32] | None = None,
    ) -> float: ...
    def count_all(
        self,
        users: NDArray[np.int32],
        items: NDArray[np.int32],
        starts: NDArray[np.int64],
        features: NDArray[np.int32],
    ) -> None: ...
    def epoch(
        self,
        users: NDArray[np.int32],
        items: NDArray[np.int32],
        ratings: NDArray[np.float32],
        starts: NDArray[np.int64],
        features: NDArray[np.int32],
        values: NDArray[np.float32],
        generator: np.random.Generator,
        rate: float,
    ) -> float: ...
    def errors(
        self,
        users: NDArray[np.int32],
        items: NDArray[np.int32],
        ratings: NDArray[np.float32],
        starts: NDArray[np.int64],
        features: NDArray[np.int32],
        values: NDArray[np.float32],
    ) -> float: ...
