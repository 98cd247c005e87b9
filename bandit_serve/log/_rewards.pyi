"""Stub of the kernel `ext/log/rewards.pyx`."""

import numpy as np
from numpy.typing import NDArray

def learned(
    rows: NDArray[np.void], metric: int, since_ms: int, rewards: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64], NDArray[np.intp] | None]: ...
def misfit(
    rows: NDArray[np.void],
    n_arms: int,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    whole: NDArray[np.uint8],
) -> str | None: ...
def undrawable(
    arms: NDArray[np.uint16], runs: NDArray[np.uint32], vectors: NDArray[np.float64]
) -> str | None: ...
def counting_places(
    rows: NDArray[np.void], window_ms: int, two_valued: NDArray[np.uint8], high: NDArray[np.float64]
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]], bytes]: ...
def event_places(
    rows: NDArray[np.void], period_ms: int, first: int
) -> tuple[list[tuple[int, int, int]] | list[tuple[int, int]], bytes]: ...
