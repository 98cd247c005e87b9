"""Columns of a log entry as the kernel reads them: its loops trust what `events.Shape` has let pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.log.events import Columns

Rows = NDArray[np.void]
Features = NDArray[np.float32]


class RewardColumns(NamedTuple):
    """Rows of `REWARD`, or of `REVISION` where they are `revised`, n, and the features of their decisions.

    x: float32 (n, d), or None where they are not known.
    """

    rows: Rows
    x: Features | None
    revised: bool = False

    def those(self, chosen: NDArray[np.bool_]) -> RewardColumns:
        return RewardColumns(self.rows[chosen], None if self.x is None else self.x[chosen], self.revised)


def features(x: bytes | Features | None, n: int, width: int) -> Features | None:
    """Features of n decisions in the log, float32 (n, width); None where it holds others, or for no width."""
    if x is None or width == 0:
        return None
    rows = np.frombuffer(x, "<f4") if isinstance(x, bytes) else np.asarray(x, "<f4").reshape(-1)
    return np.ascontiguousarray(rows.reshape(n, width)) if rows.size == n * width else None


def widened(columns: Columns, n_arms: int) -> Columns:
    """Columns with share vectors of `n_arms` arms: arms that came after the decisions have the share 0."""
    missing = n_arms - columns.vectors.shape[1]
    if missing == 0:
        return columns
    return columns._replace(vectors=np.pad(columns.vectors, ((0, 0), (0, missing))))
