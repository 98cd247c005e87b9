import numpy as np
from numpy.typing import NDArray

def uncapped_shares(
    raw: NDArray[np.float64],
    eligible: NDArray[np.intp],
    n_arms: int,
    min_share: float,
    holdout: float,
) -> NDArray[np.float64]: ...
