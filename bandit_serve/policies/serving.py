"""The policy of an experiment: made from its configuration, from its state, and after a change of policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bandit_serve.errors import FieldError, InvalidInput, NotBuilt
from bandit_serve.experiment import ByArm, Experiment, Metric
from bandit_serve.experiment import Policy as PolicySettings
from bandit_serve.policies import POLICIES, FixedSplit, Policy, Thompson
from bandit_serve.policies.thompson import LIKELIHOODS

NOT_BUILT = frozenset(["lin_ucb", "lin_ts", "logistic_ts", "squarecb"])
SERVED = {kind: policy for kind, policy in POLICIES.items() if issubclass(policy, Policy)}
OWN = ("shares", "prior", "epsilon", "decay", "temperature", "beta", "alpha", "gamma", "sigma")
FOLD_SEED = 0


def served_floor(experiment: Experiment) -> float:
    """`min_share` as it is served: what is given, else min(0.02, 0.1/K); a fixed split's shares are its floor."""
    policy = experiment.policy
    if policy.min_share is not None:
        return policy.min_share
    return 0.0 if policy.kind == FixedSplit.kind else min(0.02, 0.1 / len(experiment.arms))


def from_experiment(experiment: Experiment) -> Policy:
    """A fresh policy. `InvalidInput` names what it does not take; `NotBuilt` for a kind of a later day."""
    settings, objective = experiment.policy, experiment.objective
    kind = _kind(settings)
    modelled = _modelled(objective)
    if modelled not in kind.objectives:
        raise _wrong("policy.kind", f"{kind.kind} takes a {' or '.join(sorted(kind.objectives))} objective")
    if kind.jumps and experiment.unit == "user":
        raise _wrong(
            "policy.kind", f'{kind.kind} jumps between arms and can not keep a "unit": "user" on one'
        )
    for name in OWN:
        if getattr(settings, name) is not None and name not in kind.parameters:
            raise _wrong(f"policy.{name}", f"{kind.kind} has no parameter {name}")
    names = experiment.arm_names
    own: dict[str, Any] = {name: getattr(settings, name) for name in OWN if name in kind.parameters}
    own = {name: value for name, value in own.items() if value is not None}
    if settings.shares is not None:
        own["shares"] = [settings.shares.get(name, 0.0) for name in names]
    bounded = objective.kind == "bounded"
    try:
        if settings.prior is not None:
            own["prior"] = _in_order(settings.prior, names, _prior_defaults(kind, modelled))
        if settings.pseudo_history is not None:
            own["pseudo_history"] = _in_order(_as_utility(settings.pseudo_history, objective), names, {})
        return kind(
            len(experiment.arms),
            **own,
            objective=modelled,
            low=objective.low if bounded else None,
            high=objective.high if bounded else None,
            min_share=served_floor(experiment),
            max_share=1.0 if settings.max_share is None else settings.max_share,
            half_life=settings.half_life,
            seed=FOLD_SEED,
        )
    except InvalidInput as error:
        raise _wrong("policy", str(error)) from None


def _modelled(objective: Metric) -> str:
    """The kind of objective that the policy learns from: a count to be kept small is a negative number to it."""
    return "continuous" if objective.kind == "count" and objective.goal == "minimize" else objective.kind


def _prior_defaults(kind: type[Policy], objective: str) -> dict[str, float]:
    if not issubclass(kind, Thompson):
        return {}
    return {name: parameter.default for name, parameter in LIKELIHOODS[objective].prior.items()}


def _in_order(
    given: Mapping[str, ByArm], names: Sequence[str], defaults: Mapping[str, float]
) -> dict[str, float | list[float]]:
    """What is by the name of an arm in the order of the arms; arms that are not named have the default, or 0."""
    return {
        name: [value.get(arm, defaults.get(name, 0.0)) for arm in names] if isinstance(value, dict) else value
        for name, value in given.items()
    }


def _as_utility(history: Mapping[str, ByArm], objective: Metric) -> dict[str, ByArm]:
    """The pseudo-history with means as the policy sees rewards."""
    utilities = dict(history)
    if "mean" in history:
        mean = history["mean"]
        utilities["mean"] = (
            {arm: objective.utility(value) for arm, value in mean.items()}
            if isinstance(mean, dict)
            else objective.utility(mean)
        )
    return utilities


def carried_over(policy: Policy, experiment: Experiment) -> Policy:
    """The experiment's policy, with what its former one had counted."""
    successor = from_experiment(experiment)
    successor.take_over(policy)
    return successor


def policy_from_state(state: Mapping[str, Any]) -> Policy:
    return SERVED[state["kind"]].from_state(state)


def _kind(settings: PolicySettings) -> type[Policy]:
    if settings.kind in NOT_BUILT:
        raise NotBuilt(f"The policy {settings.kind} is part of the contract but not built yet.")
    if settings.kind not in SERVED:
        raise _wrong("policy.kind", f"expected one of {', '.join(SERVED)}, not {settings.kind!r}")
    return SERVED[settings.kind]


def _wrong(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
