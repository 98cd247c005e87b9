import numpy as np
from numpy.typing import ArrayLike, NDArray

def counting_order(codes: NDArray[np.int64], n_codes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
def sparse_product(
    starts: NDArray[np.int64],
    columns: NDArray[np.int32],
    weights: NDArray[np.float32],
    factors: NDArray[np.float32],
    out: NDArray[np.float32],
    begin: int,
    end: int,
) -> None: ...
def gram(
    factors: NDArray[np.float32], weights: NDArray[np.float32] | None, begin: int, end: int
) -> NDArray[np.float64]: ...
def dense_product(
    factors: NDArray[np.float32],
    matrix: NDArray[np.float64],
    out: NDArray[np.float32],
    begin: int,
    end: int,
) -> None: ...
def cholesky(matrix: ArrayLike, lost: float = ...) -> NDArray[np.float64]: ...
def upper_inverse(upper: NDArray[np.float64]) -> NDArray[np.float64]: ...
def ridge_rows(
    starts: NDArray[np.int64],
    columns: NDArray[np.int32],
    weights: NDArray[np.float32],
    factors: NDArray[np.float32],
    targets: NDArray[np.float32],
    confidence: float,
    out: NDArray[np.float32],
    begin: int,
    end: int,
) -> None: ...
def gain(
    precision: NDArray[np.float64],
    spread: NDArray[np.float64],
    n: float,
    direction: NDArray[np.float32],
    confidence: float,
) -> NDArray[np.float64]: ...
def dot_product(a: NDArray[np.float32], b: NDArray[np.float32]) -> float: ...
