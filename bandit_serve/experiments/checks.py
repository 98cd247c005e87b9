"""Checks of an experiment beyond the types of its fields."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from msgspec import UNSET, UnsetType

from bandit_serve.base.clock import unix_ms
from bandit_serve.base.documents import document_fault
from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.base.names import repeated_names
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.audience import audience_errors
from bandit_serve.experiments.dimensions import dimension_errors
from bandit_serve.experiments.metric import SERVED, Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.slots import slot_errors
from bandit_serve.experiments.spec import Arm, Experiment
from bandit_serve.experiments.stopping import MAX_DURATION_MS, MAX_TIME_YEAR, StoppingRule
from bandit_serve.experiments.tradeoff import tradeoff_errors
from bandit_serve.metrics import MAX_VALUE, names_of
from bandit_serve.policies import POLICIES
from bandit_serve.policies.context import MAX_VALUE_CHARS, ContextField, context_errors
from bandit_serve.policies.parameters import arms_named

# Payloads of all arms of an experiment, as JSON: every worker and every snapshot has them.
MAX_PAYLOAD_BYTES = 2**20
MIN_WINDOW_MS = 10
MAX_WINDOW_MS = 90 * 86_400_000

OTHER_ARMS = "expected names of arms"

# Kinds of metrics of which there are ratios.
PARTS = ("bounded", "continuous", "count")


def validated(experiment: Experiment, known_arms: int = 0) -> Experiment:
    """Experiment with its defaults filled in; `InvalidInput` names the fields that are wrong.

    The payloads of the first `known_arms` arms, and with any such arm the context, were checked when they were made,
    perhaps by weaker rules: they are not checked again.
    """
    errors = [*_arm_errors(experiment), *_payload_errors(experiment, known_arms)]
    errors += [*_metric_errors(experiment), *_served_errors(experiment), *_ratio_errors(experiment)]
    errors += _guardrail_errors(experiment)
    errors += [*_missing_errors(experiment), *_attribution_errors(experiment)]
    errors += [*_stopping_errors(experiment), *_horizon_errors(experiment), *_policy_errors(experiment)]
    errors += [*_tag_errors(experiment), *_audience_errors(experiment), *_keeping_errors(experiment)]
    errors += [*_mode_errors(experiment), *_tradeoff_errors(experiment), *slot_errors(experiment)]
    errors += [*context_errors(experiment.context), *_dimension_errors(experiment)]
    if not known_arms:
        errors += _long_values(experiment.context)
    if errors:
        raise InvalidInput(f"The experiment is not valid: {errors[0].at}: {errors[0].detail}.", errors)
    return msgspec.structs.replace(
        experiment,
        metrics=_with_roles(experiment.metrics),
        control=experiment.control or experiment.arms[0].name,
        attribution=msgspec.structs.replace(experiment.attribution, missing=experiment.missing),
        stopping=experiment.stopping.written(),
        keep_assigned=True if experiment.keeps_assigned else UNSET,
        mode="interleave" if experiment.interleaves else UNSET,
        dimensions=experiment.dimensions or UNSET,
    )


def with_policy(experiment: Experiment, policy: PolicySpec) -> Experiment:
    return validated(msgspec.structs.replace(experiment, policy=policy), known_arms=len(experiment.arms))


def with_arm(experiment: Experiment, arm: Arm) -> Experiment:
    """Experiment with one more arm, after the others: an arm keeps its index for ever."""
    arms = (*experiment.arms, arm)
    return validated(msgspec.structs.replace(experiment, arms=arms), known_arms=len(experiment.arms))


def with_metric(experiment: Experiment, metric: Metric) -> Experiment:
    """Experiment with one more metric, after the others: a metric keeps its index for ever.

    `InvalidInput` names the fields of the metric as those of a document of its own.
    """
    if metric.role == "objective":
        detail = f"expected secondary: {experiment.objective.name} stays the objective"
        raise InvalidInput(f"role: {detail}.", [FieldError("role", detail)])
    if metric.covariate is not UNSET or metric.is_ratio:
        at = "kind" if metric.is_ratio else "covariate"
        detail = "expected none: a metric with a companion can not be added, as what is kept of it begins with the log"
        raise InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
    metrics = (*experiment.metrics, metric)
    try:
        return validated(msgspec.structs.replace(experiment, metrics=metrics), len(experiment.arms))
    except InvalidInput as error:
        prefix = f"metrics[{len(experiment.metrics)}]"
        errors = [
            FieldError(each.at.removeprefix(prefix).removeprefix("."), each.detail) for each in error.errors
        ]
        raise InvalidInput(f"The metric is not valid: {errors[0].detail}.", errors) from None


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
        if metric.cap is not UNSET:
            errors += _cap_errors(metric, metric.cap, f"{at}.cap")
    return errors + _quantile_errors(metrics)


def _quantile_errors(metrics: Sequence[Metric]) -> list[FieldError]:
    takers = " or ".join(sorted(names_of(lambda kind: kind.takes_quantile)))
    errors = []
    for i, metric in enumerate(metrics):
        if metric.quantile is UNSET:
            continue
        at = f"metrics[{i}].quantile"
        if not metric.traits.takes_quantile:
            errors.append(FieldError(at, f"only a {takers} metric takes a quantile"))
        elif metric.cap is not UNSET:
            errors.append(FieldError(at, "expected cap or quantile: a quantile needs no cap"))
        elif metric.covariate is not UNSET:
            errors.append(
                FieldError(
                    f"metrics[{i}].covariate", "expected none with a quantile: a covariate adjusts means"
                )
            )
        elif i == _objective(metrics):
            errors.append(
                FieldError(at, "expected none of the objective: policies and winners go by its mean")
            )
    return errors


def _objective(metrics: Sequence[Metric]) -> int | None:
    """Index of the objective; None where the roles do not say which it is."""
    if _roles_fault(metrics):
        return None
    roles = [metric.role for metric in metrics]
    return roles.index("objective") if "objective" in roles else roles.index(None)


def _cap_errors(metric: Metric, cap: float, at: str) -> list[FieldError]:
    traits = metric.traits
    if metric.is_ratio:
        return [FieldError(at, "a ratio takes no cap: its parts may, and count uncapped in it")]
    if traits.two_valued:
        return [FieldError(at, f"a {metric.kind} metric takes no cap: its values are 0 and 1")]
    if -MAX_VALUE < traits.floor >= cap:
        return [FieldError(at, f"expected a number above {traits.floor:g}, the least value of the metric")]
    return []


def _served_errors(experiment: Experiment) -> list[FieldError]:
    """Errors of metrics that the service measures."""
    errors, named = [], " or ".join(f"{name} ({kind}, minimize)" for name, kind in SERVED.items())
    objective = _objective(experiment.metrics)
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


def _guardrail_errors(experiment: Experiment) -> list[FieldError]:
    errors = []
    for i, metric in enumerate(experiment.metrics):
        at, margin = f"metrics[{i}]", metric.margin
        if metric.is_guardrail:
            if margin is UNSET:
                errors.append(FieldError(f"{at}.margin", "a guardrail needs a margin, absolute or relative"))
            elif (margin.absolute is UNSET) == (margin.relative is UNSET):
                errors.append(FieldError(f"{at}.margin", "expected absolute or relative, and not both"))
            if metric.quantile is not UNSET:
                errors.append(
                    FieldError(f"{at}.quantile", "a guardrail is of a mean; leave the quantile out")
                )
            continue
        errors += [
            FieldError(f"{at}.{name}", f"only a guardrail takes {name}")
            for name in ("margin", "on_harm")
            if getattr(metric, name) is not UNSET
        ]
    return errors


def _ratio_errors(experiment: Experiment) -> list[FieldError]:
    """Errors of ratios, and of metrics that name what only a ratio has."""
    errors = []
    parts = {metric.name for metric in experiment.metrics if metric.kind in PARTS and not metric.served}
    roles_are_right = not _roles_fault(experiment.metrics)
    for i, metric in enumerate(experiment.metrics):
        at = f"metrics[{i}]"
        named = {"numerator": metric.numerator, "denominator": metric.denominator}
        if not metric.is_ratio:
            detail = "only a ratio metric takes a numerator and a denominator"
            errors += [
                FieldError(f"{at}.{field}", detail) for field, name in named.items() if name is not UNSET
            ]
            continue
        if metric.numerator is UNSET or metric.denominator is UNSET:
            errors.append(FieldError(at, "a ratio metric needs a numerator and a denominator"))
        elif metric.numerator == metric.denominator:
            errors.append(FieldError(f"{at}.denominator", "expected another metric than the numerator"))
        detail = f"expected the name of a metric of this experiment, {' or '.join(PARTS)}, that clients send"
        errors += [
            FieldError(f"{at}.{field}", f"{detail}, not {name!r}")
            for field, name in named.items()
            if name is not UNSET and name not in parts
        ]
        if metric.covariate is not UNSET:
            errors.append(FieldError(f"{at}.covariate", "a ratio metric takes no covariate"))
        if experiment.unit != "user":
            errors.append(FieldError(f"{at}.kind", 'a ratio metric needs unit "user": it is counted by unit'))
        if roles_are_right and _with_roles(experiment.metrics)[i].role == "objective":
            errors.append(
                FieldError(f"{at}.role", "a ratio metric can not be the objective: it has no rewards")
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
            on_harm=UNSET if metric.on_harm == "report" else metric.on_harm,
        )
        for i, metric in enumerate(metrics)
    )


def _attribution_errors(experiment: Experiment) -> list[FieldError]:
    if not MIN_WINDOW_MS <= experiment.attribution.window_ms <= MAX_WINDOW_MS:
        return [FieldError("attribution.window", 'expected a duration from "10ms" to "90d"')]
    return []


def _stopping_errors(experiment: Experiment) -> list[FieldError]:
    stopping, errors = experiment.stopping, []
    times = {"start_at": stopping.start_at, "end_at": stopping.end_at}
    for name, time in times.items():
        if time is not UNSET and not 1970 < time.year < MAX_TIME_YEAR:
            errors.append(FieldError(f"stopping.{name}", f"expected a time from 1971 to {MAX_TIME_YEAR - 1}"))
    duration = stopping.duration
    if duration is not None and not 0 < parse_duration_ms(duration) <= MAX_DURATION_MS:
        errors.append(FieldError("stopping.duration", 'expected a duration above 0 and up to "3660d"'))
    if isinstance(stopping.rule, StoppingRule) and len(stopping.rule.given) != 1:
        names = " and ".join(StoppingRule.__struct_fields__)
        errors.append(FieldError("stopping.rule", f"expected one of {names}"))
    elif isinstance(stopping.rule, StoppingRule) and stopping.rule.best_arm is not UNSET:
        kind = experiment.policy.kind
        if kind in POLICIES and POLICIES[kind].contextual:
            detail = f"this is not for {kind}, which gives its arms decisions of different kinds"
            errors.append(FieldError("stopping.rule.best_arm", detail))
    if not errors and not _in_order(stopping.start_at, stopping.end_at):
        errors.append(FieldError("stopping.end_at", "expected a time after start_at"))
    return errors


def _in_order(start: datetime | UnsetType, end: datetime | UnsetType) -> bool:
    return start is UNSET or end is UNSET or start < end


def require_future(now_ms: int, experiment: Experiment) -> None:
    """Raise `InvalidInput` if the experiment is to start or to end by itself at a time that has passed.

    Only for what is new: of what was made before, the time passes.
    """
    stopping = experiment.stopping
    errors = [
        FieldError(f"stopping.{name}", "expected a time in the future")
        for name, time in (("start_at", stopping.start_at), ("end_at", stopping.end_at))
        if time is not UNSET and unix_ms(time) <= now_ms
    ]
    if errors:
        raise InvalidInput(f"The experiment is not valid: {errors[0].at}: {errors[0].detail}.", errors)


def _dimension_errors(experiment: Experiment) -> list[FieldError]:
    n_metrics, n_arms = len(experiment.metrics), len(experiment.arms)
    return dimension_errors(experiment.context, experiment.dimensions or (), n_metrics, n_arms)


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


def _horizon_errors(experiment: Experiment) -> list[FieldError]:
    """Errors of a horizon, and of what only a horizon has."""
    stopping = experiment.stopping
    if not stopping.horizon:
        only = FieldError("stopping.looks", 'only the mode "horizon" has looks; leave them out')
        return [] if stopping.looks is UNSET else [only]
    errors = []
    if stopping.expected_samples is UNSET:
        detail = 'expected the number of values at which it ends, as the mode "horizon" commits to it'
        errors.append(FieldError("stopping.expected_samples", detail))
    if stopping.duration is not None:
        detail = (
            'leave it out: with the mode "horizon" the end is at expected_samples, whenever they have come'
        )
        errors.append(FieldError("stopping.duration", detail))
    if experiment.policy.kind != "fixed_split":
        detail = f'expected "anytime" with {experiment.policy.kind}: a "horizon" needs fixed_split'
        errors.append(FieldError("stopping.mode", detail))
    return errors


def _tag_errors(experiment: Experiment) -> list[FieldError]:
    tags = () if experiment.tags is UNSET else experiment.tags
    return [
        FieldError(f"tags[{i}]", "expected every tag once") for i, tag in enumerate(tags) if tag in tags[:i]
    ]


def _audience_errors(experiment: Experiment) -> list[FieldError]:
    return [] if experiment.audience is UNSET else audience_errors(experiment.audience, experiment.context)


def _keeping_errors(experiment: Experiment) -> list[FieldError]:
    if not experiment.keeps_assigned:
        return []
    policy = POLICIES.get(experiment.policy.kind)
    if experiment.unit != "user":
        return [FieldError("keep_assigned", 'expected "unit": "user": requests are not met again')]
    if policy is not None and policy.contextual:
        detail = f"expected a policy without context: with {policy.kind} a unit's arm follows its context"
        return [FieldError("keep_assigned", detail)]
    return []


def _tradeoff_errors(experiment: Experiment) -> list[FieldError]:
    objective = _objective(experiment.metrics)
    return tradeoff_errors(experiment, None if objective is None else experiment.metrics[objective].name)


def _mode_errors(experiment: Experiment) -> list[FieldError]:
    """Errors of an experiment that interleaves: two models' lists, each as likely to begin, one click one item's."""
    if not experiment.interleaves or _roles_fault(experiment.metrics):
        return []
    shares, errors = experiment.policy.shares or {}, []
    objective = next(metric for metric in _with_roles(experiment.metrics) if metric.role == "objective")
    expected = {
        "arms": (len(experiment.arms) == 2, "expected two arms, whose lists are interleaved"),
        "unit": (experiment.unit == "request", 'expected "request": each list is drafted anew'),
        "context": (not experiment.context, "expected none where lists are interleaved"),
        "policy.kind": (
            experiment.policy.kind == "fixed_split",
            'expected "fixed_split": both arms draft evenly',
        ),
        "policy.shares": (len(set(shares.values())) < 2 and len(shares) in (0, 2), "expected even shares"),
        "policy.holdout": (not experiment.policy.holdout, "expected none where lists are interleaved"),
        "metrics": (
            not any(metric.served or metric.role == "guardrail" for metric in experiment.metrics)
            and not experiment.covariates
            and objective.kind in ("binary", "count")
            and objective.goal == "maximize",
            "expected a binary or count objective to be maximized, no guardrail, no covariate, and nothing that the "
            "service measures",
        ),
        "stopping.mode": (not experiment.stopping.horizon, "expected none where lists are interleaved"),
        "stopping.rule": (
            not isinstance(experiment.stopping.rule, StoppingRule),
            'expected "winner": where lists are interleaved, arms have no means to compare',
        ),
    }
    errors += [FieldError(at, detail) for at, (holds, detail) in expected.items() if not holds]
    for i, arm in enumerate(experiment.arms):
        if arm.model is None:
            errors.append(FieldError(f"arms[{i}].model", "expected a model: its list is interleaved"))
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
