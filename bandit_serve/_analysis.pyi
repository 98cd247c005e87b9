"""Stub of the kernel `ext/analysis.pyx`."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAX_COUNTER: Final[int]

_Columns = dict[str, np.ndarray[Any, np.dtype[Any]]]

class ShareHistory:
    n_arms: int
    def __init__(self, current: NDArray[np.float64]) -> None: ...
    def unseen(self, incarnation: int, first: int, n: int) -> list[tuple[int, int]]: ...
    def extend(
        self,
        incarnation: int,
        first: int,
        low: int,
        high: int,
        ms: int,
        vectors: NDArray[np.float64],
        runs: NDArray[np.uint32],
    ) -> None: ...
    def forget(self, before_ms: int) -> None: ...
    @property
    def n_vectors(self) -> int: ...
    @property
    def n_runs(self) -> int: ...
    def state(self, of_units: NDArray[np.int32]) -> tuple[_Columns, NDArray[np.int32]]: ...
    @staticmethod
    def from_state(state: _Columns) -> ShareHistory: ...

class Accumulators:
    COUNTS: Final[tuple[str, ...]]
    SUMS: Final[tuple[str, ...]]
    BY_METRIC: Final[tuple[str, ...]]
    n_metrics: int
    n_arms: int
    control: int
    def __init__(self, n_metrics: int, n_arms: int, control: int) -> None: ...
    def counts(self) -> NDArray[np.int64]: ...
    def state(self) -> _Columns: ...
    @staticmethod
    def from_state(state: _Columns, control: int) -> Accumulators: ...

class _Decisions:
    @property
    def pending(self) -> int: ...
    @property
    def crossovers(self) -> int: ...
    def expose(
        self,
        incarnation: int,
        first: int,
        low: int,
        high: int,
        ms: int,
        arms: NDArray[np.uint16],
        ages_ms: NDArray[np.uint32],
        units: NDArray[np.uint64],
        unfloored: bool,
    ) -> None: ...
    def reward(self, rows: NDArray[np.void], unfloored: NDArray[np.uint8]) -> None: ...
    def close(self, before_ms: int) -> None: ...
    def vectors(self) -> NDArray[np.int32]: ...
    def state(self, vectors: NDArray[np.int32]) -> _Columns: ...

class RewardedDecisions(_Decisions):
    def __init__(self, sums: Accumulators, shares: ShareHistory) -> None: ...
    @staticmethod
    def from_state(sums: Accumulators, shares: ShareHistory, state: _Columns) -> RewardedDecisions: ...

class OpenDecisions(_Decisions):
    def __init__(self, sums: Accumulators, shares: ShareHistory, linger_ms: int) -> None: ...
    @staticmethod
    def from_state(sums: Accumulators, shares: ShareHistory, state: _Columns) -> OpenDecisions: ...

class Units(_Decisions):
    def __init__(
        self, sums: Accumulators, shares: ShareHistory, zero: bool, takes_max: NDArray[np.uint8]
    ) -> None: ...
    @staticmethod
    def from_state(sums: Accumulators, shares: ShareHistory, state: _Columns) -> Units: ...
