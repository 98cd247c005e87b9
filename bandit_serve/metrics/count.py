"""Counts: how often something happened."""

from __future__ import annotations

import math
from typing import ClassVar

from bandit_serve.metrics.continuous import Continuous
from bandit_serve.metrics.kind import MAX_VALUE, MetricKind

# Sums of nine million of the largest are still exact in float64.
MAX_COUNT = 10**9


class Count(MetricKind):
    """Whole rewards from 0 to `MAX_COUNT`; former versions took larger ones. To be kept small, they are negative
    numbers to a policy.
    """

    name: ClassVar[str] = "count"
    likelihood: ClassVar[str] = "poisson"
    asks_missing: ClassVar[bool] = True
    unbounded: ClassVar[bool] = True
    sub_gaussian: ClassVar[bool] = False
    mirror: ClassVar[type[MetricKind] | None] = Continuous
    floor = 0.0
    ceiling = MAX_VALUE
    refusal = f"is a count: expected a whole number from 0 to {MAX_COUNT:,}"

    def takes(self, value: float | bool) -> bool:
        return 0 <= value <= MAX_COUNT and value == math.floor(value) and not isinstance(value, bool)

    @property
    def value_limits(self) -> tuple[float, float]:
        return 0.0, float(MAX_COUNT)
