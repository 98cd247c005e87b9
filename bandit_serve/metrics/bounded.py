"""Bounded metrics: numbers from `low` to `high`, such as a score."""

from __future__ import annotations

from typing import ClassVar

from bandit_serve.metrics.kind import MetricKind, is_number


class Bounded(MetricKind):
    """Rewards from `low` to `high`. Policies scale them to [0, 1] and count each as the part of a success it is."""

    name: ClassVar[str] = "bounded"
    likelihood: ClassVar[str] = "bernoulli"
    takes_bounds: ClassVar[bool] = True

    def takes(self, value: float | bool) -> bool:
        return self.floor <= value <= self.ceiling and is_number(value)

    @property
    def refusal(self) -> str:
        return f"is bounded: expected a number from {self.floor:g} to {self.ceiling:g}"

    @property
    def scale(self) -> str:
        return f"bounded by {self.floor:g} and {self.ceiling:g}"
