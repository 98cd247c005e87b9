"""Scale of an axis: maps numbers to coordinates, and chooses the round numbers to mark."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

AxisKind = Literal["linear", "log"]


class Scale(Struct, frozen=True):
    """Maps [low, high] to [start, end]; a log scale needs low > 0."""

    kind: AxisKind
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * self._part(value)

    def _part(self, value: float) -> float:
        if self.kind == "log":
            if self.high <= self.low:
                return 1.0
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 1.0

    def marks(self, about: int) -> list[float]:
        """About so many round numbers in [low, high]: steps of 1, 2 or 5 times a power of ten, or powers of ten."""
        if self.kind == "log":
            powers = range(
                math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1
            )
            return [10.0**power for power in powers]
        step = round_up((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def between_marks(self) -> list[float]:
        """Minor marks of a log scale: 2 to 9 times each power of ten."""
        if self.kind == "linear":
            return []
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [
            digit * 10.0**power
            for power in powers
            for digit in range(2, 10)
            if self.low <= digit * 10.0**power <= self.high
        ]


def round_up(value: float) -> float:
    """Smallest of 1, 2 and 5 times a power of ten that is not below `value`."""
    if value <= 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value * (1 - 1e-9))
