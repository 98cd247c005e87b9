"""Policy of an experiment, made from its configuration or from a state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import OWN, PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.metrics import KINDS
from bandit_serve.policies import POLICIES, AnyPolicy, ContextFreePolicy, ContextualPolicy, FixedSplit
from bandit_serve.policies.context import MAX_FEATURES
from bandit_serve.policies.features import Features, n_features_of
from bandit_serve.policies.parameters import by_index

# Types of the parameters in a configuration, by name.
PARAMETERS = {field.name: field.type for field in msgspec.structs.fields(PolicySpec)}
FOLD_SEED = 0
# Coefficients of one model: its inverse is made anew in about 0.1 s, for which only its experiment's fold waits.
MAX_COEFFICIENTS = 1_024
# Numbers in all models' matrices, sums and inverses: 64 MiB in each worker and in each snapshot in the store.
MAX_NUMBERS = 1 << 23


def served_floor(experiment: Experiment) -> float:
    """`min_share` as it is served: the configured one, else `default_floor`."""
    given = experiment.policy.min_share
    return default_floor(experiment.policy.kind, len(experiment.arms)) if given is None else given


def default_floor(kind: str, n_arms: int) -> float:
    """`min_share` of a served policy unless it is given: min(0.02, 0.1/K); a fixed split's shares are its floor."""
    return 0.0 if kind == FixedSplit.kind else min(0.02, 0.1 / n_arms)


def context_features(experiment: Experiment) -> Features | None:
    """Features of the experiment's contexts; None where it has no context.

    `InvalidInput` if they are too many: a token has room for `MAX_FEATURES`, the covariates among them.
    """
    if not experiment.context:
        return None
    return Features(experiment.context, most=MAX_FEATURES - len(experiment.covariates))


def order_of(experiment: Experiment) -> int:
    """Number of coefficients of a model over the experiment's features and those of its arms; 0 without a context."""
    d, m = n_features_of(experiment.context), len(experiment.arms[0].features or ())
    return d + m + d * m if experiment.context else 0


def from_experiment(experiment: Experiment) -> AnyPolicy:
    """Policy of the experiment that has not learned anything. `InvalidInput` names the fields that its kind refuses."""
    try:
        _require_fit(experiment)
        context_arguments: dict[str, Any] = {}
        if issubclass(_kind(experiment.policy), ContextualPolicy):
            context_arguments = _context_arguments(experiment, context_features(experiment))
        return _made(experiment, _learned_as(experiment.objective), context_arguments)
    except InvalidInput as error:
        errors = _all_wrong(experiment) or error.errors
        raise InvalidInput(str(error), errors) from None


def _all_wrong(experiment: Experiment) -> list[FieldError]:
    """Errors of all fields for which there can be no such policy: refused ones are left out to find further ones."""
    if experiment.policy.kind not in POLICIES:
        return []
    errors: dict[str, FieldError] = {}
    kind, own = _kind(experiment.policy), dict.fromkeys(_kind(experiment.policy).parameters)
    contextual = issubclass(kind, ContextualPolicy)
    checks: list[Callable[[Experiment], object]] = [_require_fit]
    if contextual:
        checks.append(lambda of: _context_arguments(of, context_features(of)))
    for check in checks:
        try:
            check(experiment)
        except InvalidInput as error:
            errors |= {each.at: each for each in error.errors}
    objective = _learned_as(experiment.objective)
    if objective not in kind.objectives:
        objective = sorted(kind.objectives)[0]
    left_out = {name: None for name in OWN if name not in own} | (
        {"pseudo_history": None} if contextual else {}
    )
    experiment = _with(experiment, left_out)
    for _ in PARAMETERS:
        try:
            _made(experiment, objective, {"n_features": 1} if contextual else {})
        except InvalidInput as error:
            at = error.errors[0].at
            # What lacks a part that was refused may be refused for that.
            if not any(place.startswith(f"{at}.") for place in errors):
                errors.setdefault(at, error.errors[0])
            experiment = _without(experiment, at)
        else:
            break
    return list(errors.values())


def _with(experiment: Experiment, changed: Mapping[str, Any]) -> Experiment:
    policy = msgspec.structs.replace(experiment.policy, **changed)
    return msgspec.structs.replace(experiment, policy=policy)


def _without(experiment: Experiment, at: str) -> Experiment:
    """Experiment without the policy's parameter, or part of a parameter, at `at`."""
    _, _, rest = at.partition(".")
    name, _, part = rest.partition(".")
    value = getattr(experiment.policy, name, None)
    if isinstance(value, dict) and part in value and len(value) > 1:
        return _with(experiment, {name: {each: of for each, of in value.items() if each != part}})
    if name not in PARAMETERS or name == "kind":
        return experiment
    if name == "min_share" and value is None:
        # It is the default floor that is above a cap.
        name = "max_share"
    return _with(experiment, {name: "50ms" if name == "refresh" else None})


def _require_fit(experiment: Experiment) -> None:
    """Raise `InvalidInput` for parameters and objectives that the kind of policy does not take, whatever the values."""
    settings, kind = experiment.policy, _kind(experiment.policy)
    errors = []
    if _learned_as(experiment.objective) not in kind.objectives:
        objectives = " or ".join(sorted(kind.objectives))
        errors.append(FieldError("policy.kind", f"{kind.kind} takes a {objectives} objective"))
    if kind.jumps and experiment.unit == "user":
        detail = f'{kind.kind} jumps between arms and can not keep a "unit": "user" on one'
        errors.append(FieldError("policy.kind", detail))
    errors += [
        FieldError(
            f"policy.{name}",
            f"{kind.kind} has no parameter {name}: {expected_one_of(name, sorted(kind.parameters))}",
        )
        for name in OWN
        if getattr(settings, name) is not None and name not in kind.parameters
    ]
    if settings.pseudo_history is not None and issubclass(kind, ContextualPolicy):
        detail = f"{kind.kind} learns from context, which no such history has"
        errors.append(FieldError("policy.pseudo_history", detail))
    if errors:
        raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)


def _made(experiment: Experiment, modelled: str, context_arguments: Mapping[str, Any]) -> AnyPolicy:
    """Policy of the configured kind. modelled: the kind of objective; context_arguments: a contextual policy's own."""
    settings, objective, kind = experiment.policy, experiment.objective, _kind(experiment.policy)
    indices = {name: arm for arm, name in enumerate(experiment.arm_names)}
    given = {name: getattr(settings, name) for name in OWN if name in kind.parameters}
    if settings.pseudo_history is not None:
        given["pseudo_history"] = _as_utility(settings.pseudo_history, experiment)
    bounded = modelled == objective.kind and KINDS[modelled].takes_bounds
    try:
        return kind(
            len(experiment.arms),
            **{
                name: by_index(value, PARAMETERS[name], indices)
                for name, value in given.items()
                if value is not None
            },
            **context_arguments,
            objective=modelled,
            low=objective.low if bounded else None,
            high=objective.high if bounded else None,
            min_share=served_floor(experiment),
            max_share=1.0 if settings.max_share is None else settings.max_share,
            warmup=settings.warmup or 0,
            half_life=settings.half_life,
            holdout=settings.holdout or 0.0,
            seed=FOLD_SEED,
        )
    except InvalidInput as error:
        name = error.errors[0].at if error.errors else ""
        at = f"policy.{name}" if name.partition(".")[0] in PARAMETERS else "policy"
        raise _wrong(at, str(error)) from None


def _context_arguments(experiment: Experiment, features: Features | None) -> dict[str, Any]:
    if features is None:
        detail = f"{experiment.policy.kind} learns from context: expected at least one field"
        raise InvalidInput(f"context: {detail}.", [FieldError("context", detail)])
    arm_features = [arm.features for arm in experiment.arms]
    shared = None not in arm_features
    if any(arm_features) and not shared:
        detail = "expected features for every arm, or for none"
        raise InvalidInput(f"arms: {detail}.", [FieldError("arms", detail)])
    if len({len(own or ()) for own in arm_features}) > 1:
        detail = "expected as many features for each arm"
        raise InvalidInput(f"arms: {detail}.", [FieldError("arms", detail)])
    d, order, models = features.n_features, order_of(experiment), 1 if shared else len(arm_features)
    if order > MAX_COEFFICIENTS or models * order * (order + 1) > MAX_NUMBERS:
        detail = (
            f"expected fewer features or arms: {models} models of {order} coefficients each are too large to be "
            f"served (at most {MAX_COEFFICIENTS} each, and {MAX_NUMBERS} in number times their square)"
        )
        raise InvalidInput(f"context: {detail}.", [FieldError("context", detail)])
    return {"n_features": d, "arm_features": arm_features} if shared else {"n_features": d}


def _learned_as(objective: Metric) -> str:
    """Name of the kind of objective that the policy learns from."""
    return KINDS[objective.kind].learned_as(objective.goal).name


def _as_utility(history: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Pseudo-history with means as the policy sees rewards; 0 for arms without one, which only former logs have."""
    utilities, objective = dict(history), experiment.objective
    if "mean" in history:
        mean = history["mean"]
        utilities["mean"] = (
            dict.fromkeys(experiment.arm_names, 0.0)
            | {arm: objective.utility(value) for arm, value in mean.items()}
            if isinstance(mean, dict)
            else objective.utility(mean)
        )
    return utilities


def policy_from_state(state: Mapping[str, Any]) -> AnyPolicy:
    return POLICIES[state["kind"]].from_state(state)


def policy_from_snapshot(state: Mapping[str, Any], experiment: Experiment) -> AnyPolicy:
    """Policy of `experiment` from the `state` in a snapshot.

    The parameter in the unit of the rewards is that of the configuration. States of former builds may hold a number
    for it although none was configured.
    """
    unit = POLICIES[state["kind"]].in_unit
    if unit is None or state["kind"] != experiment.policy.kind:
        return policy_from_state(state)
    given = _configured_in_unit(experiment, unit)
    return policy_from_state({**state, "parameters": {**state["parameters"], unit: given}})


_IN_UNIT: dict[bytes, Any] = {}
MAX_IN_UNIT = 1_000


def _configured_in_unit(experiment: Experiment, unit: str) -> Any:
    """Parameter in the unit of the rewards as it is configured. Of many experiments most are configured alike."""
    alike = msgspec.msgpack.encode((experiment.policy, experiment.objective, experiment.arm_names))
    if alike not in _IN_UNIT:
        given = from_experiment(experiment).own[unit]
        if len(_IN_UNIT) >= MAX_IN_UNIT:
            _IN_UNIT.clear()
        _IN_UNIT[alike] = given
    return _IN_UNIT[alike]


def _kind(settings: PolicySpec) -> type[ContextFreePolicy] | type[ContextualPolicy]:
    error = kind_error(settings.kind)
    if error is not None:
        raise InvalidInput(f"{error.at}: {error.detail}.", [error])
    return POLICIES[settings.kind]


def kind_error(kind: str) -> FieldError | None:
    """Error of a name that is no kind of policy; None for a kind in `POLICIES`."""
    if kind in POLICIES:
        return None
    return FieldError("policy.kind", f"{expected_one_of(kind, list(POLICIES))}, not {kind[:60]!r}")


def require_pseudo_means(experiment: Experiment) -> None:
    """Raise `InvalidInput` where a pseudo-history has observations of an arm but no mean: 0 would be a guess."""
    history = experiment.policy.pseudo_history or {}
    n, mean = history.get("n", 0.0), history.get("mean", 0.0)
    if isinstance(mean, dict):
        observed = n if isinstance(n, dict) else dict.fromkeys(experiment.arm_names, n)
        unknown = [arm for arm, count in observed.items() if count > 0.0 and arm not in mean]
        if unknown:
            at, detail = "policy.pseudo_history.mean", f"expected the mean of {unknown[0]!r}, too"
            raise InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])


def _wrong(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
