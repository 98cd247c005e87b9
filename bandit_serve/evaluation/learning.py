"""Evaluation of policies while they learn: each is replayed on the log, from its beginning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from bandit_serve.base.clock import rfc3339
from bandit_serve.errors import InvalidInput
from bandit_serve.evaluation.stored import StoredDecisions
from bandit_serve.evaluation.withholding import closed_to_all
from bandit_serve.experiments.checks import with_policy
from bandit_serve.experiments.policy import from_experiment
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.experiments.tradeoff import without_tradeoff
from bandit_serve.policies import FixedSplit
from bandit_serve.results.off_policy import Estimate
from bandit_serve.results.off_policy.learning import Curve, LearningReplay, ReplayOptions

MIN_DECISIONS = 100


class LearningPolicy:
    """Policy that is replayed: its name, and the experiment with it in place of the experiment's own.

    It goes by the objective alone. `wanted` is a mask, bool (K,), of the arms that it may ever choose. Raises
    `InvalidInput` that names the fields that do not fit the experiment.
    """

    def __init__(self, name: str, spec: PolicySpec, experiment: Experiment) -> None:
        self.name = name
        self.experiment = with_policy(without_tradeoff(experiment), spec)
        policy = from_experiment(self.experiment)
        self.wanted = np.ones(policy.n_arms, np.bool_)
        if isinstance(policy, FixedSplit):
            self.wanted = policy.shares() > 0.0


class LearningValue(Struct, frozen=True, kw_only=True):
    """Value of one policy while it learns, over the first `horizon` decisions; `ReplayResult` says what the rest is."""

    name: str
    policy: Mapping[str, Any]
    runs: int
    horizon: int
    offered: int
    accepted: int
    least_accepted: int
    shares: Mapping[str, float]
    estimates: Mapping[str, Estimate]
    curve: Curve | None
    warnings: list[str]
    refusal: str | None


class LearningEvaluation(Struct, frozen=True, kw_only=True):
    """Values of policies on the objective. `logged` is that of the policy that made the decisions, over all of them.

    With several policies each interval is at the level 1 - alpha/m of m, so that all hold together (Bonferroni).
    """

    experiment: str
    metric: str
    goal: str
    missing: str
    unit: str
    n: int
    first: str | None = field(name="from")
    last: str | None = field(name="to")
    interval: str = "student"
    alpha: float
    alpha_each: float
    logged: Estimate
    policies: list[LearningValue]


def evaluate_learning(
    experiment: Experiment,
    decisions: StoredDecisions,
    policies: Sequence[LearningPolicy],
    options: ReplayOptions,
) -> LearningEvaluation:
    """Replays the policies, one after the other. Raises `InvalidInput` for hardly any decisions."""
    n, objective = decisions.n, experiment.objective
    if n < MIN_DECISIONS:
        raise InvalidInput(
            f"Of {experiment.id} there are {n} decisions with a value of {objective.name}: too few for a learning "
            "replay."
        )
    each = msgspec.structs.replace(options, alpha=options.alpha / len(policies))
    mean = decisions.total / n
    variance = max(0.0, decisions.squares - n * mean * mean) / (n - 1)
    return LearningEvaluation(
        experiment=experiment.id,
        metric=objective.name,
        goal=objective.goal,
        missing=experiment.missing,
        unit=experiment.unit,
        n=n,
        first=rfc3339(decisions.first_ms),
        last=rfc3339(decisions.last_ms),
        alpha=options.alpha,
        alpha_each=each.alpha,
        logged=Estimate(value=mean, standard_error=math.sqrt(variance / n)),
        policies=[_replayed(experiment, decisions, policy, each) for policy in policies],
    )


def _replayed(
    experiment: Experiment, decisions: StoredDecisions, policy: LearningPolicy, options: ReplayOptions
) -> LearningValue:
    replaying = LearningReplay(
        lambda: from_experiment(policy.experiment),
        decisions.chances,
        options,
        utility=_utility(experiment),
    )
    wanted = policy.wanted
    untried = _untried(experiment, decisions, wanted)
    if untried is None:
        for part in decisions:
            replaying.take(part)
            if replaying.is_over:
                break
    found = replaying.result()
    refusal = untried or found.refusal
    withholding = decisions.withholding
    closed = np.where(wanted, withholding.without - withholding.withheld, 0)
    warnings = [*closed_to_all(experiment.arm_names, closed, decisions.n), *found.warnings]
    if decisions.n_lost:
        warnings.append(f"Of {decisions.n_lost:,} decisions the shares are lost: they are left out.")
    return LearningValue(
        name=policy.name,
        policy=msgspec.to_builtins(policy.experiment.policy),
        runs=found.runs,
        horizon=found.horizon,
        offered=found.offered,
        accepted=found.accepted,
        least_accepted=found.least_accepted,
        shares=dict(zip(experiment.arm_names, found.shares, strict=True)),
        estimates=found.estimates,
        curve=found.curve,
        warnings=warnings,
        refusal=refusal,
    )


def _untried(experiment: Experiment, decisions: StoredDecisions, wanted: NDArray[np.bool_]) -> str | None:
    """Sentence that names a wanted arm that the log withheld; None where it withheld none."""
    withheld = np.where(wanted, decisions.withholding.withheld, 0)
    if not withheld.any():
        return None
    arm = int(withheld.argmax())
    return (
        f"The log gave the arm {experiment.arm_names[arm]!r} no chance in {withheld[arm]:,} of {decisions.n:,} "
        "decisions in which this policy may choose it: nothing is known of that."
    )


def _utility(experiment: Experiment) -> Callable[[float], float]:
    """Reward as a policy takes it. A unit's sum may pass the bounds of one reward."""
    objective = experiment.objective
    low, high = objective.traits.floor, objective.traits.ceiling
    if objective.traits.unbounded:
        return objective.utility
    return lambda value: objective.utility(min(max(value, low), high))
