"""Skewed values: how far an interval of a mean must reach on the side of the long tail, and when there is none.

The studentised mean of right-skewed values is skewed to the left: where the largest values have not come yet, the mean
and the variance are both too small. Its quantile at z is z + gamma (1 + 2 z^2)/6 to the first order (Cornish and
Fisher 1938; Hall 1992), gamma the skewness of the mean. A sample's skewness is smaller than that of its law, for the
same reason, so twice that is added; and where there are fewer observations than `TOO_SKEWED` says it tells too little
(Cochran 1977, sect. 2.15, asks for 25 times the squared skewness, for one look without such a correction).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.sequence import Floats, Sequence

TOO_SKEWED = 15.0
"""A mean has an interval from this many times the squared skewness of its values in observations on."""
CAUTION = 2.0


def tame(gamma: Floats) -> NDArray[np.bool_]:
    """Return whether a mean of skewness `gamma` has an interval."""
    few: NDArray[np.bool_] = np.square(gamma) * TOO_SKEWED <= 1.0
    return few


def reach(sequence: Sequence, gamma: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Distances from the mean to the lower and the upper end of the 1 - alpha interval."""
    half = sequence.half_width(alpha)
    error = np.sqrt(sequence.variance) / sequence.observations
    more = CAUTION * error * gamma * (1.0 + 2.0 * np.square(half / error)) / 6.0
    return half + np.maximum(-more, 0.0), half + np.maximum(more, 0.0)
