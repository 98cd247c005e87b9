"""Configuration of an experiment: arms, metrics, policy, attribution, stopping. Frozen; checked by `validated`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.documents import document_fault
from bandit_serve.base.durations import Duration, parse_duration_ms
from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.base.names import Name, repeated_names
from bandit_serve.errors import FieldError, InvalidInput, NotBuilt
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.metrics import KINDS, MAX_VALUE, MetricKind, names_of
from bandit_serve.metrics.kind import Goal, Missing, Unit
from bandit_serve.policies import parameters
from bandit_serve.policies.context import (
    MAX_FEATURES,
    MAX_FIELDS,
    MAX_VALUE_CHARS,
    ContextField,
    context_errors,
)
from bandit_serve.policies.parameters import arms_named

MAX_ARMS = parameters.MAX_ARMS
MAX_METRICS = 32
MAX_SAMPLES = 2**53
EXPECTED_SAMPLES = 5_000
# No arm has an asymptotic interval before 50; and sums of more than that are of no one experiment.
MIN_EXPECTED = 50
MAX_EXPECTED = 10**12
# Payloads of all arms of an experiment, as JSON: every worker and every snapshot has them.
MAX_PAYLOAD_BYTES = 2**20
MIN_WINDOW_MS = 10
MAX_WINDOW_MS = 90 * 86_400_000
MAX_FEATURE = 1e9
# Shares follow a ramp in steps of a hundredth of its cap: a vector for each millisecond would flood the log.
RAMP_STEP = 1.01

if TYPE_CHECKING:
    KindOfMetric = str
else:
    KindOfMetric = Literal[tuple(KINDS)]

OTHER_ARMS = "expected names of arms"

Status = Literal["draft", "running", "paused", "stopped"]
ArmStatus = Literal["active", "paused", "removed"]
# Feature of an arm; policies round it to float32.
Feature = Annotated[float, Meta(ge=-MAX_FEATURE, le=MAX_FEATURE)]


class Arm(Struct, frozen=True, forbid_unknown_fields=True):
    """One alternative. `model` and `version` name what predicts for it; `payload` is handed to the caller.

    `features`, numbers, describe it to a contextual policy, which then learns one model for all arms.
    """

    name: Name
    model: Name | None = None
    version: Name | None = None
    payload: Any = None
    features: Annotated[tuple[Feature, ...], Meta(min_length=1, max_length=MAX_FEATURES)] | None = None


class Ramp(Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """Cap on an arm's share that rises steadily from `from` to 1 within `over`."""

    start: Annotated[float, Meta(gt=0.0, le=1.0)]
    over: Duration

    @property
    def over_ms(self) -> int:
        return parse_duration_ms(self.over)


class Metric(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Quantity that rewards measure. `low` and `high` are its bounds, where its kind takes bounds.

    `source` says who measures it: clients, or, with `served`, the service itself (`SERVED`). The default is not
    written: so builds without the field can read logs of experiments that do not use it.
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

    @property
    def served(self) -> bool:
        """Whether the service measures it, of the predictions that it makes; no client sends it."""
        return self.source == "served"

    @cached_property
    def traits(self) -> MetricKind:
        """Kind of the metric, made with its bounds."""
        return KINDS[self.kind](self.low, self.high)

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


class Attribution(Struct, frozen=True, forbid_unknown_fields=True):
    """Window in which a decision's rewards count, and the meaning of a window without any."""

    window: Duration = "1h"
    missing: Missing | None = None

    @property
    def window_ms(self) -> int:
        return parse_duration_ms(self.window)


class Stopping(Struct, frozen=True, forbid_unknown_fields=True):
    """Condition on which a result names a winner: level `alpha`, and `min_samples` of the objective in each arm.

    `expected_samples` is the number of observations at which intervals and p-values are tightest. No change of a
    started experiment changes it: chosen by the outcomes, it would void them. The default is not written: so
    builds without the field can read logs of experiments that do not use it.
    """

    duration: Duration | None = None
    min_samples: Annotated[int, Meta(ge=0, le=MAX_SAMPLES)] = 0
    alpha: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.05
    promote_winner: bool = False
    expected_samples: (
        Annotated[
            int, Meta(ge=MIN_EXPECTED, le=MAX_EXPECTED, extra_json_schema={"default": EXPECTED_SAMPLES})
        ]
        | UnsetType
    ) = UNSET

    @property
    def tuned_for(self) -> int:
        """`expected_samples`, or the default where none is written."""
        return EXPECTED_SAMPLES if self.expected_samples is UNSET else self.expected_samples

    def written(self) -> Stopping:
        """Stopping as it stands in a log."""
        given = UNSET if self.tuned_for == EXPECTED_SAMPLES else self.tuned_for
        return msgspec.structs.replace(self, expected_samples=given)

    def shown(self) -> Stopping:
        """Stopping as callers see it."""
        return msgspec.structs.replace(self, expected_samples=self.tuned_for)


class Experiment(Struct, frozen=True, forbid_unknown_fields=True):
    id: Name
    arms: Annotated[tuple[Arm, ...], Meta(min_length=1, max_length=MAX_ARMS)]
    metrics: Annotated[tuple[Metric, ...], Meta(min_length=1, max_length=MAX_METRICS)]
    control: Name | None = None
    unit: Unit = "request"
    policy: PolicySpec = PolicySpec(kind="fixed_split")
    attribution: Attribution = Attribution()
    context: Annotated[tuple[ContextField, ...], Meta(max_length=MAX_FIELDS)] = ()
    stopping: Stopping = Stopping()

    @property
    def arm_names(self) -> tuple[str, ...]:
        return tuple(arm.name for arm in self.arms)

    @property
    def control_arm(self) -> int:
        return self.arm_names.index(self.control) if self.control else 0

    @property
    def objective(self) -> Metric:
        return next(metric for metric in self.metrics if metric.role == "objective")

    @property
    def missing(self) -> Missing:
        return self.attribution.missing or "ignore"

    def with_policy(self, policy: PolicySpec) -> Experiment:
        return validated(msgspec.structs.replace(self, policy=policy), known_arms=len(self.arms))

    def with_arm(self, arm: Arm) -> Experiment:
        """Experiment with one more arm, after the others: an arm keeps its index for ever."""
        return validated(msgspec.structs.replace(self, arms=(*self.arms, arm)), known_arms=len(self.arms))


class Standing(Struct, frozen=True, forbid_unknown_fields=True):
    """Status and ramp of one arm. A ramp counts from `ramp_since_ms`, Unix time; None in a draft: from the start on."""

    status: ArmStatus = "active"
    ramp: Ramp | None = None
    ramp_since_ms: int | None = None

    def cap(self, now_ms: int) -> float:
        """Most that the arm's share may be at `now_ms`."""
        if self.ramp is None:
            return 1.0
        since_ms = now_ms if self.ramp_since_ms is None else self.ramp_since_ms
        passed = min(max((now_ms - since_ms) / max(self.ramp.over_ms, 1), 0.0), 1.0)
        return self.ramp.start + (1.0 - self.ramp.start) * passed

    def next_cap_ms(self, now_ms: int) -> float:
        """Unix time at which the cap is `RAMP_STEP` times its value at `now_ms`, or 1; infinity if it does not rise."""
        cap = self.cap(now_ms)
        if self.ramp is None or self.ramp_since_ms is None or cap >= 1.0:
            return math.inf
        to_pass = (min(cap * RAMP_STEP, 1.0) - self.ramp.start) / (1.0 - self.ramp.start)
        return self.ramp_since_ms + math.ceil(to_pass * self.ramp.over_ms)


ACTIVE = Standing()


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """Experiment and where it stands. `revision` counts its changes and is its ETag.

    `uid` is random and names it in tokens, so that a namesake made later refuses them. `standings` are those of the
    first arms; the others are active.
    """

    experiment: Experiment
    uid: int
    status: Status
    revision: int
    created_ms: int
    updated_ms: int
    started_ms: int | None = None
    stopped_ms: int | None = None
    winner: str | None = None
    standings: tuple[Standing, ...] = ()

    def standing(self, arm: int) -> Standing:
        """Status and ramp of the arm with this index."""
        return self.standings[arm] if arm < len(self.standings) else ACTIVE

    def with_standing(self, arm: int, standing: Standing) -> Record:
        standings = [self.standing(k) for k in range(len(self.experiment.arms))]
        standings[arm] = standing
        return msgspec.structs.replace(self, standings=tuple(standings))

    @property
    def fallback(self) -> int:
        """Arm of everyone who is not drawn for: the winner once the experiment is stopped, control otherwise."""
        if self.status == "stopped" and self.winner is not None:
            return self.experiment.arm_names.index(self.winner)
        return self.experiment.control_arm

    @property
    def draws(self) -> bool:
        """True if arms are drawn, or will be: a paused and a stopped experiment gives everyone its `fallback`."""
        return self.status in ("draft", "running")

    @property
    def arm_statuses(self) -> dict[str, ArmStatus]:
        return {name: self.standing(k).status for k, name in enumerate(self.experiment.arm_names)}


_MOVES: dict[str, tuple[Status, ...]] = {
    "start": ("draft", "paused"),
    "pause": ("running",),
    "stop": ("running", "paused"),
}


def may(move: str, status: Status) -> bool:
    """Return whether an experiment in `status` can be started, paused or stopped."""
    return status in _MOVES[move]


def validated(experiment: Experiment, known_arms: int = 0) -> Experiment:
    """Experiment with its defaults filled in; `InvalidInput` names the fields that are wrong.

    The payloads of the first `known_arms` arms, and with any such arm the context, were checked when they were made,
    perhaps by weaker rules: they are not checked again.
    """
    errors = [*_arm_errors(experiment), *_payload_errors(experiment, known_arms)]
    errors += [*_metric_errors(experiment), *_served_errors(experiment), *_missing_errors(experiment)]
    errors += [*_attribution_errors(experiment), *_policy_errors(experiment)]
    errors += context_errors(experiment.context)
    if not known_arms:
        errors += _long_values(experiment.context)
    if errors:
        raise InvalidInput(f"The experiment is not valid: {errors[0].at}: {errors[0].detail}.", errors)
    _refuse_unbuilt(experiment)
    return msgspec.structs.replace(
        experiment,
        metrics=_with_roles(experiment.metrics),
        control=experiment.control or experiment.arms[0].name,
        attribution=msgspec.structs.replace(experiment.attribution, missing=experiment.missing),
        stopping=experiment.stopping.written(),
    )


def _arm_errors(experiment: Experiment) -> list[FieldError]:
    errors = repeated_names("arms", experiment.arm_names)
    for i, arm in enumerate(experiment.arms):
        if (arm.model is None) != (arm.version is None):
            errors.append(FieldError(f"arms[{i}]", "expected model and version together, or neither"))
    if experiment.control is not None and experiment.control not in experiment.arm_names:
        detail = f"{expected_one_of(experiment.control, experiment.arm_names)}, not {experiment.control!r}"
        errors.append(FieldError("control", detail))
    return errors


def _payload_errors(experiment: Experiment, known_arms: int) -> list[FieldError]:
    faults = [document_fault(arm.payload) for arm in experiment.arms[known_arms:]]
    return [
        FieldError(f"arms[{i}].payload", fault)
        for i, fault in enumerate(faults, known_arms)
        if fault is not None
    ]


def require_payloads(experiment: Experiment) -> None:
    """Raise `InvalidInput` if the payloads are larger in all than `MAX_PAYLOAD_BYTES`.

    Only for what is new: what was made before there was such a bound goes on.
    """
    left = MAX_PAYLOAD_BYTES
    for i, arm in enumerate(experiment.arms):
        left -= 0 if arm.payload is None else len(msgspec.json.encode(arm.payload))
        if left < 0:
            at = f"arms[{i}].payload"
            detail = f"expected payloads of at most {MAX_PAYLOAD_BYTES} bytes of JSON in all arms together"
            raise InvalidInput(f"The experiment is not valid: {at}: {detail}.", [FieldError(at, detail)])


def _metric_errors(experiment: Experiment) -> list[FieldError]:
    metrics = experiment.metrics
    errors = repeated_names("metrics", [metric.name for metric in metrics])
    if _roles_fault(metrics):
        errors.append(FieldError("metrics", 'expected one metric with the role "objective"'))
    for i, metric in enumerate(metrics):
        at = f"metrics[{i}]"
        if metric.traits.takes_bounds:
            if metric.low is None or metric.high is None:
                errors.append(FieldError(at, f"a {metric.kind} metric needs low and high"))
            elif not metric.low < metric.high:
                errors.append(FieldError(f"{at}.high", "expected a number above low"))
            elif max(-metric.low, metric.high) > MAX_VALUE:
                errors.append(FieldError(at, f"expected low and high within ±{MAX_VALUE:g}"))
        elif metric.low is not None or metric.high is not None:
            takers = " or ".join(sorted(names_of(lambda kind: kind.takes_bounds)))
            errors.append(FieldError(at, f"only a {takers} metric takes low and high"))
    return errors


def _served_errors(experiment: Experiment) -> list[FieldError]:
    """Errors of metrics that the service measures."""
    errors, named = [], " or ".join(f"{name} ({kind}, minimize)" for name, kind in SERVED.items())
    objective = None
    if not _roles_fault(experiment.metrics):
        objective = [metric.role for metric in _with_roles(experiment.metrics)].index("objective")
    for i, metric in enumerate(experiment.metrics):
        at = f"metrics[{i}].source"
        if metric.served and (SERVED.get(metric.name) != metric.kind or metric.goal != "minimize"):
            errors.append(FieldError(at, f'expected "client" of this metric; "served" are {named}'))
        elif metric.served and i == objective:
            # A refused connection is the quickest answer there is.
            errors.append(
                FieldError(at, 'expected "client" of the objective: served metrics say how, not how well')
            )
    return errors


def _roles_fault(metrics: Sequence[Metric]) -> bool:
    roles = [metric.role for metric in metrics]
    return roles.count("objective") > 1 or ("objective" not in roles and None not in roles)


def _missing_errors(experiment: Experiment) -> list[FieldError]:
    missing = experiment.attribution.missing
    if _roles_fault(experiment.metrics):
        return []
    objective = next(metric for metric in _with_roles(experiment.metrics) if metric.role == "objective")
    detail, traits = None, objective.traits
    if missing is None and traits.asks_missing:
        detail = (
            f'expected "zero" or "ignore": with a {objective.kind} objective a decision without a reward '
            "may count as 0 or be left out, and the wrong reading is silently wrong"
        )
    elif missing == "zero" and traits.floor < traits.ceiling and not traits.takes(0.0):
        detail = f'expected "ignore": 0 is outside the range of {objective.name}'
    return [] if detail is None else [FieldError("attribution.missing", detail)]


def _with_roles(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """Metrics as they stand in a log: unless one is the objective already, the first without a role becomes it."""
    roles = [metric.role for metric in metrics]
    objective = roles.index("objective") if "objective" in roles else roles.index(None)
    return tuple(
        msgspec.structs.replace(
            metric,
            role="objective" if i == objective else metric.role or "secondary",
            source="served" if metric.served else UNSET,
        )
        for i, metric in enumerate(metrics)
    )


def _attribution_errors(experiment: Experiment) -> list[FieldError]:
    if not MIN_WINDOW_MS <= experiment.attribution.window_ms <= MAX_WINDOW_MS:
        return [FieldError("attribution.window", 'expected a duration from "10ms" to "90d"')]
    return []


def _policy_errors(experiment: Experiment) -> list[FieldError]:
    policy, n_arms, arm_names = experiment.policy, len(experiment.arms), set(experiment.arm_names)
    errors = []
    if policy.min_share is not None and policy.min_share * n_arms > 1.0 + 1e-12:
        errors.append(
            FieldError("policy.min_share", f"expected at most 1/{n_arms}, as there are {n_arms} arms")
        )
    for field in msgspec.structs.fields(PolicySpec):
        for at, names in arms_named(f"policy.{field.name}", getattr(policy, field.name), field.type):
            unknown = sorted(set(names) - arm_names)
            if unknown:
                errors.append(FieldError(at, f"{OTHER_ARMS}, not {unknown[0]!r}"))
    return errors


def _long_values(fields: Sequence[ContextField]) -> list[FieldError]:
    """Errors of too long values in a new configuration; not in `context_errors`, as logs may hold longer ones."""
    detail = f"expected at most {MAX_VALUE_CHARS} characters"
    return [
        FieldError(f"context[{i}].values[{j}]", detail)
        for i, field in enumerate(fields)
        for j, value in enumerate(field.values or ())
        if len(value) > MAX_VALUE_CHARS
    ]


def unbuilt(experiment: Experiment) -> list[FieldError]:
    """Errors of the fields that the contract has and this version does not support."""
    unbuilt_fields = {
        "stopping.duration": experiment.stopping.duration is not None,
        "stopping.promote_winner": experiment.stopping.promote_winner,
        **{f"metrics[{i}].role": metric.role == "guardrail" for i, metric in enumerate(experiment.metrics)},
    }
    return [
        FieldError(at, "is part of the contract but not built yet; leave it out")
        for at, given in unbuilt_fields.items()
        if given
    ]


def _refuse_unbuilt(experiment: Experiment) -> None:
    errors = unbuilt(experiment)
    if errors:
        where = " and ".join(error.at for error in errors)
        are, them = ("is", "it") if len(errors) == 1 else ("are", "them")
        raise NotBuilt(f"{where} {are} part of the contract but not built yet; leave {them} out.")
