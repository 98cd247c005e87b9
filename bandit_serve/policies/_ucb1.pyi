import numpy as np
from numpy.typing import NDArray

CHOOSER: object

def shares(n: NDArray[np.float64], mean: NDArray[np.float64], scale: float) -> NDArray[np.float64]: ...
