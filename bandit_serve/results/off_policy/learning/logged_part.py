"""Decisions of a log as a replay takes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats


class LoggedPart(NamedTuple):
    """Decisions, n, in the order of time.

    `arms` intp (n,). `shares` float64 (n, K), what each arm was drawn from; 0 for an arm that nobody could choose then.
    `value` float64 (n,), its reward. `x` float32 (n, d), d = 0 without context. `time_ms` int64 (n,).
    """

    arms: NDArray[np.intp]
    shares: Floats
    value: Floats
    x: NDArray[np.float32]
    time_ms: NDArray[np.int64]

    def those(self, chosen: NDArray[np.bool_] | NDArray[np.intp] | slice) -> LoggedPart:
        return LoggedPart._make(column[chosen] for column in self)
