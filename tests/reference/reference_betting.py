"""Reproducible data with known betting intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def lcg(n: int, seed: int) -> Floats:
    """The documented generator, seed first."""
    x, drawn = seed, []
    for _ in range(n):
        x = (1103515245 * x + 12345) % 2**31
        drawn.append((x >> 8) / 8388608)
    return np.array(drawn)


BINARY, SQUARES = (lcg(200, 7) < 0.1).astype(float), lcg(200, 11) ** 2
