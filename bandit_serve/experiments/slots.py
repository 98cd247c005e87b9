"""Slots: an experiment that fills several places of a page at once, each with another arm."""

from __future__ import annotations

from msgspec import UNSET

from bandit_serve.errors import FieldError
from bandit_serve.experiments.spec import Experiment
from bandit_serve.policies import Exp3

MAX_SLOTTED_ARMS = 50
"""Arms of an experiment with slots: each set of arms that is left has shares of its own."""


def slot_errors(experiment: Experiment) -> list[FieldError]:
    """Errors of an experiment with slots, which stand at what does not go with them."""
    if experiment.slots is UNSET:
        return []
    expected = {
        "slots": (
            experiment.slots <= len(experiment.arms),
            f"expected at most {len(experiment.arms)}, as there are {len(experiment.arms)} arms",
        ),
        "arms": (len(experiment.arms) <= MAX_SLOTTED_ARMS, f"expected at most {MAX_SLOTTED_ARMS} with slots"),
        "mode": (not experiment.interleaves, 'expected "allocate" with slots'),
        "unit": (experiment.unit == "request", 'expected "request" with slots: each list is drawn anew'),
        "policy.kind": (
            experiment.policy.kind != Exp3.kind,
            f'expected another than "{Exp3.kind}" with slots: its sums take an arm for worse that is placed above',
        ),
        "policy.holdout": (
            not experiment.policy.holdout,
            "expected none with slots: the arms of one list would tell whether it is held out",
        ),
        "attribution.missing": (
            experiment.missing == "ignore",
            'expected "ignore" with slots: nobody may have seen a place that got no reward',
        ),
        "metrics": (
            not any(metric.served for metric in experiment.metrics),
            "expected none with slots that the service measures: it predicts nothing here",
        ),
        "stopping.mode": (not experiment.stopping.horizon, 'expected "anytime" with slots'),
        "weights": (experiment.weights is UNSET, "expected none with slots"),
        "constraints": (experiment.constraints is UNSET, "expected none with slots"),
    }
    return [FieldError(at, detail) for at, (holds, detail) in expected.items() if not holds]
