"""Candidates: policies whose value is asked for, and how each would have chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import NotFound
from bandit_serve.evaluation.decision_folds import FOLDS, folds_of
from bandit_serve.evaluation.decisions import LoggedDecisions
from bandit_serve.experiments.checks import with_policy
from bandit_serve.experiments.logged import n_context_features
from bandit_serve.experiments.policy import from_experiment
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.experiments.tradeoff import without_tradeoff
from bandit_serve.policies import ContextualPolicy, FixedSplit
from bandit_serve.results.sequence import Floats

A_BATCH = 4_096


class Candidate(Protocol):
    """Policy with a name and a description, plain values."""

    name: str
    about: Mapping[str, Any]

    def probabilities(self, decisions: LoggedDecisions, seed: int) -> Floats:
        """Probability with which it would have chosen each arm for each decision, float64 (n, K)."""
        ...


class Constant:
    """Policy that never changes: shares (K,) that sum to 1."""

    def __init__(self, name: str, about: Mapping[str, Any], shares: Floats) -> None:
        self.name = name
        self.about = about
        self.shares = shares

    def probabilities(self, decisions: LoggedDecisions, seed: int) -> Floats:
        return np.tile(self.shares, (len(decisions.arms), 1))


class LearnedPolicy:
    """Policy with what this log teaches it, for whom it then stands still.

    The decisions are split into folds. For those of one fold it chooses with what it has learned from all others: else
    it would have seen the answers.
    """

    def __init__(self, name: str, experiment: Experiment) -> None:
        self.name = name
        self.about: Mapping[str, Any] = msgspec.to_builtins(experiment.policy)
        self._experiment = experiment
        self._n_context = n_context_features(experiment)

    def probabilities(self, decisions: LoggedDecisions, seed: int) -> Floats:
        n, n_arms = decisions.shares.shape
        fold = folds_of(decisions.key, seed)
        chosen = np.empty((n, n_arms))
        for k in range(FOLDS):
            held = fold == k
            chosen[held] = self._shares(decisions.those(~held & ~decisions.held_out), decisions.x[held])
        return chosen

    def _shares(self, others: LoggedDecisions, x: NDArray[np.float32]) -> Floats:
        policy = from_experiment(self._experiment)
        objective = self._experiment.objective
        low, high = objective.traits.floor, objective.traits.ceiling
        # A unit's sum may pass the bounds of one reward.
        values = others.value if objective.traits.unbounded else np.clip(others.value, low, high)
        utilities = np.array([objective.utility(value) for value in values.tolist()])
        arms = others.arms.astype(np.int64)
        for start in range(0, len(arms), A_BATCH):
            some = slice(start, start + A_BATCH)
            if isinstance(policy, ContextualPolicy):
                policy.update_many(arms[some], utilities[some], others.x[some, : self._n_context])
            else:
                policy.update_many(arms[some], utilities[some], others.propensity[some])
        if isinstance(policy, ContextualPolicy):
            return policy.shares_many(x[:, : self._n_context])
        return np.tile(policy.shares(), (len(x), 1))


def of_policy(name: str, spec: PolicySpec, experiment: Experiment) -> Candidate:
    """Candidate of a policy's configuration, which goes by the objective alone.

    `InvalidInput` names the fields that do not fit the experiment.
    """
    changed = with_policy(without_tradeoff(experiment), spec)
    policy = from_experiment(changed)
    if isinstance(policy, FixedSplit):
        return Constant(name, msgspec.to_builtins(changed.policy), policy.shares())
    return LearnedPolicy(name, changed)


def of_version(version: str, experiment: Experiment) -> Candidate:
    """Candidate that always takes the arm of a model's version, `MODEL/VERSION`, or one of them evenly.

    Raises `NotFound` where no arm has it: what it would have brought was never seen.
    """
    model, _, name = version.partition("/")
    arms = [arm.name for arm in experiment.arms if (arm.model, arm.version) == (model, name)]
    if not arms:
        known = sorted({f"{arm.model}/{arm.version}" for arm in experiment.arms if arm.model})
        there = f"the arms have {', '.join(known)}" if known else "no arm has a model"
        raise NotFound(f"No arm of {experiment.id} has the version {version[:256]!r}: {there}.")
    shares = np.array([float(arm.name in arms) for arm in experiment.arms])
    return Constant(version, {"version": version, "arms": arms}, shares / shares.sum())
