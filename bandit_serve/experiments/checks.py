"""Checks of an experiment beyond the types of its fields."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from bandit_serve.base.documents import document_fault
from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.base.names import repeated_names
from bandit_serve.errors import FieldError, InvalidInput, NotBuilt
from bandit_serve.experiments.dimensions import dimension_errors
from bandit_serve.experiments.metric import SERVED, Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Experiment
from bandit_serve.metrics import MAX_VALUE, names_of
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
    errors += [*_missing_errors(experiment)]
    errors += [*_attribution_errors(experiment), *_policy_errors(experiment)]
    errors += [*context_errors(experiment.context), *_dimension_errors(experiment)]
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
        dimensions=experiment.dimensions or UNSET,
    )


def with_policy(experiment: Experiment, policy: PolicySpec) -> Experiment:
    return validated(msgspec.structs.replace(experiment, policy=policy), known_arms=len(experiment.arms))


def with_arm(experiment: Experiment, arm: Arm) -> Experiment:
    """Experiment with one more arm, after the others: an arm keeps its index for ever."""
    arms = (*experiment.arms, arm)
    return validated(msgspec.structs.replace(experiment, arms=arms), known_arms=len(experiment.arms))


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
        )
        for i, metric in enumerate(metrics)
    )


def _attribution_errors(experiment: Experiment) -> list[FieldError]:
    if not MIN_WINDOW_MS <= experiment.attribution.window_ms <= MAX_WINDOW_MS:
        return [FieldError("attribution.window", 'expected a duration from "10ms" to "90d"')]
    return []


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
