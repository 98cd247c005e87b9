from typing import Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._share_history import ShareHistory
from bandit_serve.results.room import State

@disjoint_base
class Units:
    def __new__(
        cls,
        sums: Accumulators,
        shares: ShareHistory,
        zero: bool,
        takes_max: NDArray[np.uint8],
        most: int = 0,
        counts_missing: NDArray[np.uint8] | None = None,
        parts: NDArray[np.int64] | None = None,
    ) -> Self: ...
    @property
    def one_in(self) -> int: ...
    def still_open(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]: ...
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
        x: NDArray[np.float32] | None = None,
        notes: NDArray[np.float32] | None = None,
    ) -> None: ...
    def reward(
        self,
        rows: NDArray[np.void],
        unfloored: NDArray[np.uint8],
        x: NDArray[np.float32] | None = None,
        notes: NDArray[np.float32] | None = None,
    ) -> None: ...
    def revise(
        self,
        rows: NDArray[np.void],
        unfloored: NDArray[np.uint8],
        x: NDArray[np.float32] | None = None,
        notes: NDArray[np.float32] | None = None,
    ) -> None: ...
    def close(self, before_ms: int) -> None: ...
    def vectors(self) -> NDArray[np.int32]: ...
    def state(self, vectors: NDArray[np.int32]) -> State: ...
    @staticmethod
    def from_state(
        sums: Accumulators,
        shares: ShareHistory,
        state: State,
        most: int = 0,
        counts_missing: NDArray[np.uint8] | None = None,
        parts: NDArray[np.int64] | None = None,
    ) -> Units: ...
