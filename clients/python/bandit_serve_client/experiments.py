"""Experiments, their results and their history, as the service answers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["draft", "running", "paused", "stopped"]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Arm:
    """One alternative. `model` and `version` name what predicts for it; `payload` is handed to the caller."""

    name: str
    model: str | None = None
    version: str | None = None
    payload: Any = None
    features: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Margin:
    """Loss to control that a guardrail allows: in units of the metric, or as a part of control's mean."""

    absolute: float | None = None
    relative: float | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """Quantity that rewards measure; the service measures those with `source` `served` itself.

    Guardrails, by their `role`, have a `margin`; `on_harm` says what becomes of an arm that makes one worse.
    """

    name: str
    kind: str
    goal: str = "maximize"
    role: str | None = None
    low: float | None = None
    high: float | None = None
    source: str = "client"
    cap: float | None = None
    quantile: float | None = None
    margin: Margin | None = None
    on_harm: str = "report"
    covariate: str | None = None
    numerator: str | None = None
    denominator: str | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """Window in which a decision's rewards count, and the meaning of a window without any."""

    window: str = "1h"
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class ContextField:
    """Field of a request's context."""

    name: str
    kind: str
    values: tuple[str, ...] | None = None
    buckets: int | None = None
    mean: float | None = None
    std: float | None = None
    interactions: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Stopping:
    """Conditions on which a result names a winner, and on which the experiment starts and ends by itself.

    `rule` is `"winner"`, or one limit by its name. Times are as the service shows them: in UTC.
    """

    duration: str | None = None
    min_samples: int = 0
    alpha: float = 0.05
    promote_winner: bool = False
    expected_samples: int | None = None
    start_at: str | None = None
    end_at: str | None = None
    rule: Any = None
    mode: Literal["anytime", "horizon"] | None = None
    looks: int | None = None


@dataclass(frozen=True, slots=True)
class Ramp:
    """Cap on an arm's share that rises from `start` to 1 within `over`; `since` is None in a draft."""

    start: float = field(metadata={"json": "from"})
    over: str
    since: str | None


@dataclass(frozen=True, slots=True)
class SetAside:
    """Since when an experiment can not be folded, at which entry of its log, and why."""

    since: str
    offset: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Layer:
    """Layer of an experiment, and the share of units that may be in it."""

    name: str
    share: float


@dataclass(frozen=True, slots=True)
class Constraint:
    """Bound of a metric's mean over all traffic: `at_most` or `at_least`."""

    metric: str
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Experiment and where it stands. `etag` is for `if_match` of the next change; it is None in a list.

    `overridden` lists, by arm, the guardrails that do not pause it any more. `held` is, by arm, the most that its share
    may be while a promotion holds it there. The version of an `unpromoted` winner was not promoted.
    """

    id: str
    arms: tuple[Arm, ...]
    metrics: tuple[Metric, ...]
    status: Status
    revision: int
    created_at: str
    updated_at: str
    started_at: str | None
    stopped_at: str | None
    winner: str | None
    arm_status: Mapping[str, str]
    ramps: Mapping[str, Ramp]
    control: str | None = None
    unit: str = "request"
    policy: Mapping[str, Any] = field(default_factory=dict)
    attribution: Attribution = Attribution()
    context: tuple[ContextField, ...] = ()
    stopping: Stopping = Stopping()
    description: str | None = None
    owner: str | None = None
    tags: tuple[str, ...] = ()
    hypothesis: str | None = None
    audience: Mapping[str, Any] | None = None
    layer: Layer | None = None
    keep_assigned: bool = False
    mode: Literal["allocate", "interleave"] = "allocate"
    overridden: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)
    unpromoted: bool = False
    dimensions: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    slots: int | None = None
    set_aside: SetAside | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """Decisions whose window is open, and the mean of their rewards so far."""

    n: int
    mean: float


@dataclass(frozen=True, slots=True)
class GuardrailResult:
    """Verdict on an arm: `safe`, `harm` or `undecided`. It is safe where `bound`, at worst, is within `margin`."""

    verdict: str
    margin: float | None
    bound: float | None


@dataclass(frozen=True, slots=True)
class AdjustedResult:
    """One arm on one metric, with the variance that its covariate explains taken out (CUPED)."""

    mean: float | None
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    p_value: float | None
    theta: float


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One arm on one metric, compared with control where it is not control itself.

    `raw_mean`, of a metric with a cap, is the mean without it; `since`, of one that joined later, says when.
    """

    n: int
    mean: float | None
    std: float | None
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    lift: float | None
    lift_interval: Interval | None
    p_value: float | None
    probability_best: float | None
    expected_loss: float | None
    preview: Preview | None = None
    raw_mean: float | None = None
    p_value_corrected: float | None = None
    guardrail: GuardrailResult | None = None
    adjusted: AdjustedResult | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True)
class ArmResult:
    """Results of one arm; `share` is the current one."""

    name: str
    share: float
    exposures: int
    metrics: Mapping[str, MetricResult]


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Test of whether the traffic came in the logged proportions."""

    p_value: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class DecisionSoFar:
    """Decision of the objective and the guardrails: `undecided`, `winner`, `harm`, `no_difference`; and since when."""

    state: str
    arm: str | None = None
    since: str | None = None
    samples_to_go: int | None = None
    days_to_go: float | None = None


@dataclass(frozen=True, slots=True)
class InterleavingResult:
    """Contests of two arms whose lists are interleaved, by the arm that won; `win_rate` is how often control lost."""

    wins: Mapping[str, int]
    ties: int
    pending: int
    win_rate: float | None
    interval: Interval | None
    p_value: float | None


@dataclass(frozen=True, slots=True)
class SegmentMetric:
    """One arm on one metric within a segment; p-value and intervals are corrected for all segments."""

    n: int
    mean: float | None
    std: float | None
    interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    lift: float | None
    lift_interval: Interval | None
    p_value: float | None


@dataclass(frozen=True, slots=True)
class Shrunk:
    """Difference to control, moved towards those of the other segments; `weight` is that of the segment's own data."""

    difference: float
    standard_error: float
    weight: float


@dataclass(frozen=True, slots=True)
class SegmentArm:
    """Results of one arm within a segment."""

    name: str
    metrics: Mapping[str, SegmentMetric]


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """One segment: a `value` of the field, the `rest` of them, or what is `unknown`. `shrunk` is by arm and metric."""

    value: str | None
    kind: str
    arms: tuple[SegmentArm, ...]
    shrunk: Mapping[str, Mapping[str, Shrunk | None]]


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """Results by the values of a context field, which was `declared` before the start or is looked up afterwards."""

    field: str
    declared: bool
    level: float
    reason: str
    values: tuple[SegmentResult, ...]


@dataclass(frozen=True, slots=True)
class ConstraintResult:
    """A constraint: the metric's `mean` by the current shares, whether it is met, and the price of a unit of it."""

    metric: str
    mean: float | None
    se: float | None
    met: bool | None
    price: float | None
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """What the policy makes the most of: the weighted sum of means by the current shares, and of each arm."""

    weights: Mapping[str, float]
    value: float | None
    values: Mapping[str, float | None]
    constraints: tuple[ConstraintResult, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """Results so far. They cover every reward that was acknowledged before they were asked for."""

    experiment: str
    status: Status
    as_of: str
    arms: tuple[ArmResult, ...]
    srm: SampleRatio
    pending: int
    crossovers: int
    winner: str | None
    reason: str
    decision: DecisionSoFar | None = None
    segments: SegmentReport | None = None
    interleaving: InterleavingResult | None = None
    tradeoff: Tradeoff | None = None

    def arm(self, name: str) -> ArmResult:
        """Returns the results of one arm. Raises KeyError where there is none."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Change of an experiment: who made it, when, and what it was. The service's own changes have their evidence."""

    revision: int
    at: str
    who: str
    what: str
    status: str
    policy: str
    reason: str | None
    arm: str | None
    evidence: Mapping[str, Any] | None = None
    metric: str | None = None
