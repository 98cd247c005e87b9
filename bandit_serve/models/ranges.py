"""Ranges to draw hyper-parameters from, and the spaces that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct


class Uniform(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="uniform"):
    """Number from `low` to `high`."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        return float(random.uniform(self.low, self.high))


class LogUniform(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="loguniform"):
    """Number from `low` to `high`, both above 0, whose logarithm is uniform."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        return math.exp(random.uniform(math.log(self.low), math.log(self.high)))


class Whole(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="whole"):
    """Whole number from `low` to `high`, both included."""

    low: int
    high: int

    def draw(self, random: np.random.Generator) -> int:
        return int(random.integers(self.low, self.high + 1))


Range = Uniform | LogUniform | Whole
# A value, values to choose from, or a range, by hyper-parameter.
Space = Mapping[str, Any | list[Any] | Range]
