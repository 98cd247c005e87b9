import numpy as np
from numpy.typing import ArrayLike, NDArray

CHOOSER: object

def index(p: ArrayLike, d: ArrayLike) -> NDArray[np.float64]: ...
def shares(n: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]: ...
