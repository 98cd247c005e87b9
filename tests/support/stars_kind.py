"""Toy kind of metric in one file: to import it is the line in the table."""

from __future__ import annotations

from typing import ClassVar

from bandit_serve.metrics import KINDS, MetricKind


class Stars(MetricKind):
    """One to five stars. None is no reward."""

    name: ClassVar[str] = "stars"
    likelihood: ClassVar[str] = "bernoulli"
    floor = 1.0
    ceiling = 5.0
    refusal = "is of stars: expected 1, 2, 3, 4 or 5"
    scale = "one to five stars"

    def takes(self, value: float | bool) -> bool:
        return value in (1.0, 2.0, 3.0, 4.0, 5.0) and not isinstance(value, bool)


KINDS[Stars.name] = Stars
