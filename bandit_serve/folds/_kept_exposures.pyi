"""Stub of the kernel `ext/folds/kept_exposures.pyx`."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

@disjoint_base
class KeptExposures:
    n_features: int
    dropped: int
    def __new__(cls, window_ms: int, n_features: int, max_rows: int) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def expose(
        self,
        incarnation: int,
        first: int,
        revision: int,
        ms: int,
        arms: NDArray[np.uint16],
        ages_ms: NDArray[np.uint32],
        units: NDArray[np.uint64],
        vectors: NDArray[np.float64],
        runs: NDArray[np.uint32],
        held_out: NDArray[np.uint8] | None,
        x: NDArray[np.float32] | None,
        closed_ms: int,
    ) -> None: ...
    def close(self, closed_ms: int) -> None: ...
    def in_force(
        self,
        units: NDArray[np.uint64],
        at_ms: NDArray[np.int64],
        rows: NDArray[np.void],
        x: NDArray[np.float32],
    ) -> NDArray[np.bool_]: ...
    def state(self) -> dict[str, NDArray[Any]]: ...
    def restore(self, columns: Mapping[str, NDArray[Any]], dropped: int) -> None: ...

def moved(
    column: NDArray[Any], room: int, before: NDArray[np.uint64], after: NDArray[np.uint64]
) -> NDArray[Any]: ...
