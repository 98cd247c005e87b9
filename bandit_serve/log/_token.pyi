from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

TOKEN_CHARS: int
MAX_FEATURES: int
KEY_BYTES: int

@disjoint_base
class Seal:
    key_id: int
    def __init__(self, key_id: int, key: bytes) -> None: ...
    def sign(
        self,
        experiment: int,
        incarnation: int,
        counter: int,
        time_ms: int,
        revision: int,
        arm: int,
        propensity: float,
        unit: int,
        flags: int = 0,
        x: NDArray[np.float32] | None = None,
    ) -> str: ...
    def sign_many(
        self,
        experiment: int,
        incarnation: int,
        first: int,
        time_ms: int,
        revision: int,
        arms: NDArray[np.uint16],
        propensities: NDArray[np.float64],
        units: NDArray[np.uint64],
        flags: NDArray[np.uint8] | None = None,
        x: NDArray[np.float32] | None = None,
    ) -> list[str]: ...

@disjoint_base
class Opener:
    def __init__(self, seals: Iterable[Seal]) -> None: ...
    def open_into(
        self,
        tokens: Sequence[object],
        values: NDArray[np.float64],
        rows: NDArray[np.uint8],
        experiments: NDArray[np.uint64],
    ) -> dict[int, bytes]: ...
