import numpy as np
from numpy.typing import NDArray

CHOOSER: object

def posterior(
    n: NDArray[np.float64], mean: NDArray[np.float64], m2: NDArray[np.float64], prior: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
