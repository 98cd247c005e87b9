"""Ratios of two other metrics, such as clicks a session."""

from __future__ import annotations

from typing import ClassVar

from bandit_serve.metrics.kind import MAX_VALUE, MetricKind


class Ratio(MetricKind):
    """Sum of one metric over the sum of another, by unit. It has no rewards of its own."""

    name: ClassVar[str] = "ratio"
    likelihood: ClassVar[str] = "normal"
    unbounded: ClassVar[bool] = True
    floor = -MAX_VALUE
    ceiling = MAX_VALUE
    refusal = "is a ratio: it takes no rewards, those of its numerator and denominator make it"

    def takes(self, value: float | bool) -> bool:
        return False
