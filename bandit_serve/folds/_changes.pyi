"""Stub of the kernel `ext/folds/changes.pyx`."""

import numpy as np
from numpy.typing import NDArray

def watch(
    arms: NDArray[np.intp],
    values: NDArray[np.float64],
    low: NDArray[np.float64],
    width: NDArray[np.float64],
    n: NDArray[np.int64],
    total: NDArray[np.float64],
    m2: NDArray[np.float64],
    m3: NDArray[np.float64],
    next_look: NDArray[np.int64],
) -> bool: ...
def evidence(
    candidates: NDArray[np.float64], n: float, total: float, variance: float, skew: float, shift: float
) -> tuple[float, int]: ...
def forget(candidates: NDArray[np.float64]) -> None: ...
