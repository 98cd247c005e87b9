"""Learner of one rating at a time, as factorized families need one."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bandit_serve.models._learner import Rows


class RowLearner(Protocol):
    """Rows of users and items, which one rating at a time moves. Scores are `mean` + b_u + b_i + p_u·q_i."""

    mean: float
    n_ratings: int

    @property
    def users(self) -> Rows: ...
    @property
    def items(self) -> Rows: ...
    @property
    def nbytes(self) -> int: ...
    def predict(self, user_id: Any, item_id: Any, /) -> float: ...
    def learn(self, user_id: Any, item_id: Any, rating: float, /) -> object: ...
    def sides(self, name: str, /) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Biases, float32 (n,), and vectors, float32 (n, f), of the "users" or "items", in the order of rows."""
        ...
