"""The columns of a log entry as the kernel reads them: its loops trust what `events.Shape` has let pass."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.events import Columns

Rows = NDArray[np.void]


def widened(columns: Columns, n_arms: int) -> Columns:
    """With share vectors of `n_arms` arms: those that came after the decisions have no share in them."""
    missing = n_arms - columns.vectors.shape[1]
    return columns._replace(vectors=np.pad(columns.vectors, ((0, 0), (0, missing))))
