"""Binary metrics: whether something happened."""

from __future__ import annotations

from typing import ClassVar

from bandit_serve.metrics.kind import MetricKind


class Binary(MetricKind):
    """Rewards 0 and 1, also written as false and true. A unit to which it happened once is a 1."""

    name: ClassVar[str] = "binary"
    likelihood: ClassVar[str] = "bernoulli"
    asks_missing: ClassVar[bool] = True
    two_valued: ClassVar[bool] = True
    takes_max: ClassVar[bool] = True
    floor = 0.0
    ceiling = 1.0
    refusal = "is binary: expected 0 or 1"
    scale = "binary"

    def takes(self, value: float | bool) -> bool:
        return value in (0.0, 1.0)
