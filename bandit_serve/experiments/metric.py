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


OnHarm = Literal["report", "pause_arm", "stop"]
Role = Literal["objective", "secondary", "guardrail"]
Source = Annotated[Literal["client", "served"], Meta(extra_json_schema={"default": "client"})]
DeclaredOnHarm = Annotated[OnHarm, Meta(extra_json_schema={"default": "report"})]
Cap = Annotated[float, Meta(ge=-MAX_VALUE, le=MAX_VALUE)]
Quantile = Annotated[float, Meta(gt=0.0, lt=1.0)]
MAX_RELATIVE_MARGIN = 1_000.0


class Margin(Struct, frozen=True, forbid_unknown_fields=True):
    """Loss to control that a guardrail allows.

    `absolute` is in units of the metric, `relative` a part of the absolute value of control's mean. One is given.
    """

    absolute: Annotated[float, Meta(ge=0.0, le=MAX_VALUE)] | UnsetType = UNSET
    relative: Annotated[float, Meta(ge=0.0, le=MAX_RELATIVE_MARGIN)] | UnsetType = UNSET


class Metric(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Quantity that rewards measure. `low` and `high` are its bounds, where its kind takes bounds.

    `source` says who measures it: clients, or, with `served`, the service itself (`SERVED`). A guardrail is a metric
    that no arm may make worse by more than its `margin`; `on_harm` says what becomes of an arm that is shown to make it
    worse.

    `cap`: most that a decision's or unit's value counts for in the results. `quantile`: results are of this quantile of
    the values, in place of their mean.

    `covariate` names a number known before a decision, with which the metric's variance is reduced (CUPED). A ratio is
    that of two other metrics, its `numerator` and `denominator`.

    Defaults are not written: so builds without the fields can read logs of experiments that do not use them.
    """

    name: Name
    kind: KindOfMetric
    goal: Goal = "maximize"
    role: Role | None = None
    low: float | None = None
    high: float | None = None
    source: Source | UnsetType = UNSET
    margin: Margin | UnsetType = UNSET
    on_harm: DeclaredOnHarm | UnsetType = UNSET
    cap: Cap | UnsetType = UNSET
    quantile: Quantile | UnsetType = UNSET
    covariate: Name | UnsetType = UNSET
    numerator: Name | UnsetType = UNSET
    denominator: Name | UnsetType = UNSET

    @property
    def is_guardrail(self) -> bool:
        return self.role == "guardrail"

    @property
    def served(self) -> bool:
        """Whether the service measures it, of the predictions that it makes; no client sends it."""
        return self.source == "served"

    @property
    def is_ratio(self) -> bool:
        return self.kind == Ratio.name

    @property
    def is_mean(self) -> bool:
        """Whether results are of the mean of its own values: neither of a ratio nor of a quantile."""
        return not self.is_ratio and self.quantile is UNSET

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
