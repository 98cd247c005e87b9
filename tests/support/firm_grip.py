"""Firm grip: most of the share to the arm of the largest mean, the rest to all."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bandit_serve.policies import POLICIES, ContextFreePolicy
from bandit_serve.policies.context_free import Rule, Statistics, mean_rewards
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.objectives import ALL


class FirmGripParameters(Struct, frozen=True):
    grip: Annotated[float, Meta(gt=0.0, le=0.9, description="the part of the arm of the largest mean")] = 0.7
    rounds: Annotated[int, Meta(ge=1, le=5, description="how often that is done to what is left")] = 1


class FirmGrip(ContextFreePolicy):
    """`grip` of what is left to the arm of the largest mean, `rounds` times, and the rest evenly.

    Arms without observations come first.
    """

    kind: ClassVar[str] = "firm_grip"
    objectives: ClassVar[frozenset[str]] = ALL
    Parameters: ClassVar[type[Struct]] = FirmGripParameters

    @classmethod
    def rule_of(cls, own: FirmGripParameters, objective: str) -> Rule:
        def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
            mean = np.where(statistics["n"] > 0.0, mean_rewards(statistics), np.inf)
            best = mean == mean.max()
            left = (1.0 - own.grip) ** own.rounds
            return np.asarray((1.0 - left) * best / np.count_nonzero(best) + left / best.size)

        return Rule(shares)


# The line of the table.
POLICIES[FirmGrip.kind] = FirmGrip
