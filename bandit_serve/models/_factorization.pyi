from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

from bandit_serve.models._ids import IdTable
from bandit_serve.models._top_k import TopK
from bandit_serve.models.row_learner import RowLearner

SAMPLE: np.dtype[Any]

def sgd_epoch(
    samples: NDArray[Any],
    generator: np.random.Generator,
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    user_biases: NDArray[np.float32],
    item_biases: NDArray[np.float32],
    mean: float,
    rate: float,
    bias_regularization: float,
    factor_regularization: float,
) -> float: ...
def largest(values: NDArray[np.float32]) -> float: ...
def pair_errors(
    samples: NDArray[Any],
    user_factors: NDArray[np.float32],
    item_factors: NDArray[np.float32],
    user_biases: NDArray[np.float32],
    item_biases: NDArray[np.float32],
    mean: float,
) -> float: ...

@disjoint_base
class Factorization:
    _learner: RowLearner | None
    _stale: bool
    @property
    def mean(self) -> float: ...
    @property
    def user_factors(self) -> NDArray[np.float32]: ...
    @property
    def item_factors(self) -> NDArray[np.float32]: ...
    @property
    def user_biases(self) -> NDArray[np.float32]: ...
    @property
    def item_biases(self) -> NDArray[np.float32]: ...
    @property
    def user_ids(self) -> IdTable: ...
    @property
    def item_ids(self) -> IdTable: ...
    @property
    def user_counts(self) -> NDArray[np.int32]: ...
    @property
    def item_counts(self) -> NDArray[np.int32]: ...
    @property
    def n_users(self) -> int: ...
    @property
    def n_items(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def _set(
        self,
        mean: float,
        user_factors: NDArray[np.float32],
        item_factors: NDArray[np.float32],
        user_biases: NDArray[np.float32],
        item_biases: NDArray[np.float32],
        user_ids: IdTable,
        item_ids: IdTable,
        user_counts: NDArray[np.int32],
        item_counts: NDArray[np.int32],
    ) -> None: ...
    def user_row(self, user_id: str | int) -> int: ...
    def item_row(self, item_id: str | int) -> int: ...
    def knows(self, user_id: str | int, item_id: str | int) -> bool: ...
    def score(self, user_row: int, item_row: int) -> float: ...
    def score_many(self, user_rows: ArrayLike, item_rows: ArrayLike) -> NDArray[np.float64]: ...
    def predict(self, user_id: str | int, item_id: str | int, features: Any = None) -> float: ...
    def partial_fit(self, users: Any, items: Any, ratings: Any, features: Any = None) -> Self: ...
    def _pairs(self, user_ids: Sequence[str | int], item_ids: Sequence[str | int]) -> NDArray[np.float64]: ...
    def _items(
        self,
        user_id: str | int,
        item_ids: Sequence[str | int],
        query: tuple[float, NDArray[np.float32]] | None = None,
    ) -> NDArray[np.float64]: ...
    def _asked(
        self,
        user_ids: Sequence[str | int],
        queries: Sequence[tuple[float, NDArray[np.float32]] | None] | None = None,
    ) -> tuple[NDArray[np.float32], list[float], IdTable]: ...
    def _take_top(self, parts: Mapping[str, NDArray[Any]]) -> None: ...
    def _top(self) -> TopK: ...
