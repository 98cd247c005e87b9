"""Continuous metrics: any numbers, such as revenue."""

from __future__ import annotations

from typing import ClassVar

from bandit_serve.metrics.kind import LARGEST_VALUE, MetricKind, is_number


class Continuous(MetricKind):
    """Rewards of any size within ±`LARGEST_VALUE`."""

    name: ClassVar[str] = "continuous"
    likelihood: ClassVar[str] = "normal"
    unbounded: ClassVar[bool] = True
    floor = -LARGEST_VALUE
    ceiling = LARGEST_VALUE
    refusal = "is continuous: expected a number"

    def takes(self, value: float | bool) -> bool:
        return is_number(value)
