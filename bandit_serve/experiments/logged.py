"""Numbers that the log has of each decision beside its arm: `x`, float32 (d,)."""

from __future__ import annotations

from bandit_serve.experiments.spec import Experiment
from bandit_serve.policies.features import n_features_of


def n_context_features(experiment: Experiment) -> int:
    """Number of features of the experiment's context, 0 without one: the first columns of x."""
    return n_features_of(experiment.context) if experiment.context else 0


def n_logged(experiment: Experiment) -> int:
    """Number of columns of x: the features of the context, then the covariates."""
    return n_context_features(experiment) + len(experiment.covariates)
