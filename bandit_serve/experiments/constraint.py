"""Constraint of an experiment: a bound that its traffic keeps on a metric while it makes the most of another."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.names import Name
from bandit_serve.metrics import MAX_VALUE
from bandit_serve.policies.mixtures import MAX_BOUNDS

MAX_CONSTRAINTS = MAX_BOUNDS
Limit = Annotated[float, Meta(ge=-MAX_VALUE, le=MAX_VALUE)]


class Constraint(Struct, frozen=True, forbid_unknown_fields=True):
    """Bound of a metric's mean over all traffic, in the metric's units: `at_most` or `at_least`, one of them."""

    metric: Name
    at_most: Limit | UnsetType = UNSET
    at_least: Limit | UnsetType = UNSET

    @property
    def sign(self) -> float:
        """1 for a bound from above, -1 for one from below."""
        return -1.0 if self.at_most is UNSET else 1.0

    @property
    def limit(self) -> float:
        """The bound that is given; infinity where none is."""
        given = self.at_least if self.at_most is UNSET else self.at_most
        return float("inf") if given is UNSET else given
