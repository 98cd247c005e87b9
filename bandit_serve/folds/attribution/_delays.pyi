"""Stub of the kernel `ext/folds/attribution/delays.pyx`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_Buckets = dict[int, NDArray[np.int64]]

def count_decisions(
    buckets: _Buckets, arms: NDArray[np.uint16], times_ms: NDArray[np.int64], width_ms: int, n_arms: int
) -> int: ...
def count_rewards(
    buckets: _Buckets,
    blank: _Buckets,
    rows: NDArray[np.void],
    now_ms: int,
    width_ms: int,
    edges_ms: NDArray[np.int64],
    arrivals: NDArray[np.int64],
    reached: dict[int, tuple[Any, ...]],
) -> tuple[int, list[int]]: ...
def reach(
    buckets: _Buckets,
    rewarded: _Buckets,
    now_ms: int,
    width_ms: int,
    edges_ms: NDArray[np.int64],
    n_arms: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]: ...
def gamma_below(shape: float, x: NDArray[np.float64]) -> NDArray[np.float64]: ...
def arrival_rates(
    arrivals: NDArray[np.int64],
    shown: NDArray[np.float64],
    masses: NDArray[np.float64],
    log_masses: NDArray[np.float64],
    by_shape: NDArray[np.float64],
    prior: NDArray[np.float64],
    trials_before: float,
    weight: float,
) -> NDArray[np.float64]: ...
