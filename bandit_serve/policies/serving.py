"""The policy of an experiment: made from its configuration, from its state, and after a change of policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bandit_serve.errors import FieldError, InvalidInput, NotBuilt
from bandit_serve.experiment import Experiment
from bandit_serve.experiment import Policy as PolicySettings
from bandit_serve.policies import POLICIES, FixedSplit, Policy, Thompson

NOT_BUILT = frozenset(
    [
        "epsilon_greedy",
        "softmax",
        "kl_ucb",
        "top_two_thompson",
        "exp3",
        "lin_ucb",
        "lin_ts",
        "logistic_ts",
        "squarecb",
    ]
)
OWN = ("shares", "prior", "epsilon", "decay", "temperature", "beta", "alpha", "gamma")
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
    if objective.kind not in kind.objectives:
        if objective.kind == "count" and kind is Thompson:
            raise NotBuilt("thompson for a count objective is part of the contract but not built yet.")
        raise _wrong("policy.kind", f"{kind.kind} takes a {' or '.join(sorted(kind.objectives))} objective")
    if kind.jumps and experiment.unit == "user":
        raise _wrong(
            "policy.kind", f'{kind.kind} jumps between arms and can not keep a "unit": "user" on one'
        )
    for name in OWN:
        if getattr(settings, name) is not None and name not in kind.parameters:
            raise _wrong(f"policy.{name}", f"{kind.kind} has no parameter {name}")
    own: dict[str, Any] = {}
    if settings.shares is not None:
        own["shares"] = [settings.shares.get(name, 0.0) for name in experiment.arm_names]
    if settings.prior is not None:
        own["prior"] = settings.prior
    bounded = objective.kind == "bounded"
    unsigned = objective.kind == "count" and objective.goal == "minimize"
    try:
        return kind(
            len(experiment.arms),
            **own,
            objective="continuous" if unsigned else objective.kind,
            low=objective.low if bounded else None,
            high=objective.high if bounded else None,
            min_share=served_floor(experiment),
            max_share=1.0 if settings.max_share is None else settings.max_share,
            half_life=settings.half_life,
            seed=FOLD_SEED,
        )
    except InvalidInput as error:
        raise _wrong("policy", str(error)) from None


def carried_over(policy: Policy, experiment: Experiment) -> Policy:
    """The experiment's policy, with what its former one had counted."""
    successor = from_experiment(experiment)
    successor.take_over(policy)
    return successor


def policy_from_state(state: Mapping[str, Any]) -> Policy:
    return POLICIES[state["kind"]].from_state(state)


def _kind(settings: PolicySettings) -> type[Policy]:
    if settings.kind in NOT_BUILT:
        raise NotBuilt(f"The policy {settings.kind} is part of the contract but not built yet.")
    if settings.kind not in POLICIES:
        raise _wrong("policy.kind", f"expected one of {', '.join(POLICIES)}, not {settings.kind!r}")
    return POLICIES[settings.kind]


def _wrong(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
