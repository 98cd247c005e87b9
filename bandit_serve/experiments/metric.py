"""Metric of an experiment: what its rewards measure, and which of them are good."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.names import Name
from bandit_serve.metrics import MAX_VALUE, METRIC_KINDS, MetricKind, Ratio
from bandit_serve.metrics.kind import Goal

if TYPE_CHECKING:
    KindOfMetric = str
else:
    KindOfMetric = Literal[tuple(METRIC_KINDS)]


class Metric(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Quantity that rewards measure. `low` and `high` are its bounds, where its kind takes bounds.

    `source` says who measures it: clients, or, with `served`, the service itself (`SERVED`). The default is not
    written: so builds without the field can read logs of experiments that do not use it. `covariate` names a number
    known before a decision, with which the metric's variance is reduced (CUPED). A ratio is that of two other metrics,
    its `numerator` and `denominator`.
    """

    name: Name
    kind: KindOfMetric
    goal: Goal = "maximize"
    role: Literal["objective", "secondary", "guardrail"] | None = None
    low: float | None = None
    high: float | None = None
    source: (
        Annotated[Literal["client", "served"], Meta(extra_json_schema={"default": "client"})] | UnsetType
    ) = UNSET
    covariate: Name | UnsetType = UNSET
    numerator: Name | UnsetType = UNSET
    denominator: Name | UnsetType = UNSET

    @property
    def served(self) -> bool:
        """Whether the service measures it, of the predictions that it makes; no client sends it."""
        return self.source == "served"

    @property
    def is_ratio(self) -> bool:
        return self.kind == Ratio.name

    @cached_property
    def traits(self) -> MetricKind:
        """Kind of the metric, made with its bounds."""
        return METRIC_KINDS[self.kind](self.low, self.high)

    def refuses(self, value: float | bool) -> str | None:
        """Reason why `value` can not be a reward of this metric; None if it can. True and false are 1 and 0."""
        if self.traits.takes(value):
            return None
        if not -MAX_VALUE <= value <= MAX_VALUE:
            return f"expected a number within ±{MAX_VALUE:g}"
        if isinstance(value, bool):
            return f"{self.name} is {self.kind}: expected a number"
        return f"{self.name} {self.traits.refusal}"

    def utility(self, value: float) -> float:
        """`value` as the policy sees it: larger is better, in the metric's own range."""
        return value if self.goal == "maximize" else self.traits.reflected(value)


SERVED: Mapping[str, str] = {"latency_ms": "continuous", "error": "binary"}
"""Kinds of the metrics that the service measures, by their names. Less is better of each."""
