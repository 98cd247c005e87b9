"""Continuous metrics: any numbers, such as revenue."""

from __future__ import annotations

from typing import ClassVar

from bandit_serve.metrics.kind import MAX_VALUE, MetricKind, is_number


class Continuous(MetricKind):
    """Rewards of any size within ±`MAX_VALUE`."""

    name: ClassVar[str] = "continuous"
    likelihood: ClassVar[str] = "normal"
    takes_quantile: ClassVar[bool] = True
    unbounded: ClassVar[bool] = True
    floor = -MAX_VALUE
    ceiling = MAX_VALUE
    refusal = "is continuous: expected a number"

    def takes(self, value: float | bool) -> bool:
        return is_number(value)
