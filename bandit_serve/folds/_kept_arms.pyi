"""Stub of the kernel `ext/folds/kept_arms.pyx`."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

@disjoint_base
class KeptArms:
    n_arms: int
    missed: int
    def __new__(cls, n_arms: int, most_units: int, most_vectors: int) -> Self: ...
    def __len__(self) -> int: ...
    def meet(
        self,
        units: NDArray[np.uint64],
        arms: NDArray[np.uint16],
        vectors: NDArray[np.float64],
        runs: NDArray[np.uint32],
        removed: NDArray[np.uint8],
        low: int,
        high: int,
    ) -> None: ...
    def find(self, unit: int) -> int: ...
    def find_many(self, units: NDArray[np.uint64]) -> NDArray[np.int64]: ...
    def shares(self, number: int) -> NDArray[np.float64]: ...
    def grow(self, n_arms: int) -> None: ...
    def state(self) -> dict[str, NDArray[Any]]: ...
    @classmethod
    def from_state(
        cls, state: Mapping[str, NDArray[Any]], n_arms: int, most_units: int, most_vectors: int
    ) -> Self: ...
