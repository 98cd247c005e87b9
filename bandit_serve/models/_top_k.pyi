from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

def use_plain(plain: bool) -> None: ...

@disjoint_base
class TopK:
    @property
    def nbytes(self) -> int: ...
    def __init__(
        self,
        factors: NDArray[np.float32],
        biases: NDArray[np.float32],
        parts: Mapping[str, NDArray[Any]] | None = None,
    ) -> None: ...
    def parts(self) -> dict[str, NDArray[Any]]: ...
    def search(
        self,
        vectors: ArrayLike,
        bases: Sequence[float],
        k: int,
        skips: Sequence[NDArray[np.uint8] | None] | None = None,
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]: ...
