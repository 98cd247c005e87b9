import numpy as np
from numpy.typing import NDArray

MAX_BOUNDS: int

def best_mixtures(
    rewards: NDArray[np.float64], excesses: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
