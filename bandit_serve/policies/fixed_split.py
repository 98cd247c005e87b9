"""The classic A/B test: shares that no reward changes."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve._arms import arm_count
from bandit_serve.errors import InvalidInput
from bandit_serve.policies.policy import RANGES, Common, Policy, weights
from bandit_serve.policies.shares import Vector


class FixedSplit(Policy):
    """Each arm's share is its weight in `shares` (n_arms,) over their sum; even if not given.

    Over eligible arms whose weights are all 0 the split is even. Rewards are counted, for `means`.
    `Policy` says the rest.
    """

    kind: ClassVar[str] = "fixed_split"
    objectives: ClassVar[frozenset[str]] = frozenset(RANGES)
    parameters: ClassVar[tuple[str, ...]] = ("shares",)
    learns: ClassVar[bool] = False

    def __init__(self, n_arms: int, *, shares: ArrayLike | None = None, **common: Unpack[Common]) -> None:
        n_arms = arm_count(n_arms)
        split = weights("shares", np.ones(n_arms) if shares is None else shares, n_arms)
        if not split.any():
            raise InvalidInput("shares must have at least one number above 0")
        super().__init__(n_arms, {"shares": split.tolist()}, **common)
        self.split = split

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        return self.split[arms]
