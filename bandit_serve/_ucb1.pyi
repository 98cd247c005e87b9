import numpy as np
from numpy.typing import NDArray

CHOOSER: object

def shares(n: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]: ...
