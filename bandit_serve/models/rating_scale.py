"""Unit of ratings: stars, percent, cents, play counts. Models are fitted in one that all data have in common."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# The standard deviation of the ratings of MovieLens' small set, which rates and penalties were tuned on.
TUNED_SPREAD = 1.0425
# What is left of rounding where all ratings are equal, relative to the largest.
ROUNDING = 1e-12
# Between which what is learned is far from the ends of float32.
MIN_UNIT, MAX_UNIT = 1e-30, 1e30


class RatingScale(NamedTuple):
    """Scale of ratings: `mean` + `unit` times the targets of a model, which have the mean 0 and the spread of stars.

    A model of the ratings a·r + b is therefore, but for rounding, a times the model of r, plus b.
    """

    mean: float
    unit: float

    @classmethod
    def of(cls, ratings: NDArray[np.float64]) -> RatingScale:
        """Scale of n ratings; the unit is 1 where they are all equal."""
        mean, spread = float(ratings.mean()), float(ratings.std())
        unit = spread / TUNED_SPREAD
        is_spread = spread > ROUNDING * float(np.abs(ratings).max()) and unit >= MIN_UNIT
        return cls(mean, unit if is_spread else 1.0)

    def centred(self, ratings: NDArray[np.float64]) -> NDArray[np.float32]:
        """(n,) less their mean, in their own unit; subtracted before anything is rounded."""
        return (ratings - self.mean).astype(np.float32)

    def plain(self, ratings: NDArray[np.float64]) -> NDArray[np.float32]:
        """(n,) what a model is fitted to."""
        return ((ratings - self.mean) / self.unit).astype(np.float32)
