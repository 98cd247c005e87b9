import numpy as np
from numpy.typing import NDArray

CHOOSER: object

def shares(n: NDArray[np.float64], gain: NDArray[np.float64], gamma: float) -> NDArray[np.float64]: ...
