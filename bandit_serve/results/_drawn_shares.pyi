import numpy as np
from numpy.typing import NDArray

def add_shares(
    total: NDArray[np.float64],
    vectors: NDArray[np.float64],
    runs: NDArray[np.uint32],
    low: int,
    high: int,
) -> None: ...
