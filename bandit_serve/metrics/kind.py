"""Kind of metric, for subclasses: its rewards, and what policies, results and models may suppose of them."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

Goal = Literal["maximize", "minimize"]
# The meaning of a reward that did not come, and what the analysed values are of.
Missing = Literal["zero", "ignore"]
Unit = Literal["user", "request"]

# Policies and results can square and sum rewards up to this size without an overflow.
MAX_VALUE = 1e80


def is_number(value: float | bool) -> bool:
    """Return whether `value` is a number within ±`MAX_VALUE`; true and false are none."""
    return -MAX_VALUE <= value <= MAX_VALUE and not isinstance(value, bool)


class MetricKind:
    """Kind of a metric: a subclass in the table `KINDS`, made with the metric's own bounds where it takes some.

    Class attributes say what follows from the kind alone. `floor` and `ceiling` are the ends of the range in which
    all rewards in a log lie, also those that a former version took; `takes` may be narrower.
    """

    name: ClassVar[str]
    # The model of its rewards by name, as `policies.thompson.LIKELIHOODS` has them.
    likelihood: ClassVar[str]
    # Whether a metric says between which values rewards lie, by `low` and `high`.
    takes_bounds: ClassVar[bool] = False
    # Whether results may be of a quantile of its values.
    takes_quantile: ClassVar[bool] = False
    # Whether a configuration has to say what a missing reward means.
    asks_missing: ClassVar[bool] = False
    # Whether each reward is 0 or 1, so that the mean says all of the law.
    two_valued: ClassVar[bool] = False
    # Whether the range is too wide to scale rewards by it, so that their own variance has to do.
    unbounded: ClassVar[bool] = False
    # Whether rewards may be supposed to have no heavier tails than a Normal law has, as all that have bounds.
    sub_gaussian: ClassVar[bool] = True
    # Whether the value of a unit, or of a decision with several events, is the largest of its rewards; it is their sum
    # otherwise. A kind of which that is so is `two_valued`.
    takes_max: ClassVar[bool] = False
    # The kind that negative rewards are of, for a policy that is to keep them small; None: the same.
    mirror: ClassVar[type[MetricKind] | None] = None

    floor: float
    ceiling: float

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        if self.takes_bounds:
            self.floor = 0.0 if low is None else low
            self.ceiling = 1.0 if high is None else high
        # The number that `reflected` subtracts from.
        self.reflection = 0.0 if self.unbounded else self.floor + self.ceiling

    @classmethod
    def learned_as(cls, goal: Goal) -> type[MetricKind]:
        """Kind of the utilities that a policy learns from."""
        return cls if goal == "maximize" or cls.mirror is None else cls.mirror

    def takes(self, value: float | bool) -> bool:
        """Return whether `value`, whatever number or truth value it is, can be a reward."""
        raise NotImplementedError

    @property
    def refusal(self) -> str:
        """Sentence, behind the metric's name, for a value that it does not take."""
        raise NotImplementedError

    @property
    def value_limits(self) -> tuple[float, float]:
        """Ends of the range in which a decision's value lies, whether of one reward or of several events."""
        return self.floor, self.ceiling

    @property
    def scale(self) -> str | None:
        """Scale of the rewards in words; None where nothing but the metric's name tells it."""
        return None

    def reflected(self, value: float) -> float:
        """Utility of `value` where less is better: in the same range, or the negative where that has no bounds."""
        if self.unbounded:
            return -value
        # The difference may be rounded past a bound, where the policy would refuse it.
        return min(max(self.reflection - value, self.floor), self.ceiling)

    def has_bounds(self, unit: Unit) -> bool:
        """Return whether each value that is analysed lies between `floor` and `ceiling`."""
        return not self.unbounded and (self.takes_max or unit == "request")

    def mean_limits(self, unit: Unit, missing: Missing) -> tuple[float, float]:
        """Ends of the range in which the mean of analysed values lies."""
        low, high = self.floor, self.ceiling
        if self.unbounded:
            low = low if low > -MAX_VALUE else -math.inf
            high = high if high < MAX_VALUE else math.inf
        if missing == "zero":
            low, high = min(low, 0.0), max(high, 0.0)
        if unit == "user" and not self.takes_max:
            # A unit's value is the sum of its rewards.
            low, high = (0.0 if low >= 0.0 else -math.inf), (0.0 if high <= 0.0 else math.inf)
        return low, high
