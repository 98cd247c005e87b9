"""Withholding: arms that a policy may leave without a chance though they could be chosen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.policy import served_floor
from bandit_serve.experiments.spec import Record
from bandit_serve.policies import FixedSplit


def withheld_arms(record: Record) -> NDArray[np.bool_]:
    """Mask, bool (K,), of the active arms that a record's policy may give a share of 0.

    A floor leaves none without a chance, and a fixed split those alone that it gives nothing.
    """
    experiment, policy = record.experiment, record.experiment.policy
    active = np.array([status == "active" for status in record.arm_statuses.values()])
    if served_floor(experiment) > 0.0 or policy.holdout:
        return np.zeros(len(active), np.bool_)
    if policy.kind != FixedSplit.kind:
        return active
    if policy.shares is None:
        return np.zeros(len(active), np.bool_)
    nothing = np.array([not policy.shares.get(name, 0.0) for name in experiment.arm_names])
    mask: NDArray[np.bool_] = active & nothing
    return mask
