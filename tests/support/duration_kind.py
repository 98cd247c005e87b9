"""Toy kind of metric in one file: to import it is the line in the table."""

from __future__ import annotations

from typing import ClassVar

from bandit_serve.metrics import KINDS, Continuous, MetricKind, is_number


class Duration(MetricKind):
    """Seconds, from none to a day. Some take much longer than most."""

    name: ClassVar[str] = "duration"
    likelihood: ClassVar[str] = "normal"
    asks_missing: ClassVar[bool] = True
    unbounded: ClassVar[bool] = True
    sub_gaussian: ClassVar[bool] = False
    mirror: ClassVar[type[MetricKind] | None] = Continuous
    floor = 0.0
    ceiling = 86_400.0
    refusal = "is a duration: expected a number of seconds from 0 to 86,400"

    def takes(self, value: float | bool) -> bool:
        return is_number(value) and self.floor <= value <= self.ceiling


KINDS[Duration.name] = Duration
