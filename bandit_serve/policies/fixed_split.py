"""The classic A/B test: shares that no reward changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.metrics import KINDS
from bandit_serve.policies._arms import arm_count
from bandit_serve.policies.policy import Common, Policy, weights
from bandit_serve.policies.shares import Vector


class FixedSplit(Policy):
    """Each arm's share is its weight in `shares` over their sum; even if not given.

    `shares` is a weight for every arm, (n_arms,), or a mapping of arms to weights in which the others have 0.
    Over eligible arms whose weights are all 0 the split is even. Rewards are counted, for `means`.
    `Policy` says the rest.
    """

    kind: ClassVar[str] = "fixed_split"
    objectives: ClassVar[frozenset[str]] = frozenset(KINDS)
    parameters: ClassVar[tuple[str, ...]] = ("shares",)
    learns: ClassVar[bool] = False

    def __init__(
        self,
        n_arms: int,
        *,
        shares: ArrayLike | Mapping[int, float] | None = None,
        **common: Unpack[Common],
    ) -> None:
        n_arms = arm_count(n_arms)
        if isinstance(shares, Mapping):
            shares = in_order(shares, n_arms)
        split = weights("shares", np.ones(n_arms) if shares is None else shares, n_arms)
        if not split.any():
            raise InvalidInput("shares must have at least one number above 0")
        super().__init__(n_arms, {"shares": None if shares is None else split.tolist()}, **common)
        self.split = split

    def grown_parameters(self, more: int) -> dict[str, Any]:
        """New arms have the weight 0 where weights were given."""
        shares = self.own["shares"]
        return {"shares": None if shares is None else shares + [0.0] * more}

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        return self.split[arms]


def in_order(shares: Mapping[int, float], n_arms: int) -> list[float]:
    """The weights of arms 0 … n_arms - 1; InvalidInput where another key is named."""
    if not all(type(arm) is int and 0 <= arm < n_arms for arm in shares):
        raise InvalidInput(f"shares must be by arm, from 0 to {n_arms - 1}, not by {list(shares)!r}")
    return [shares.get(arm, 0.0) for arm in range(n_arms)]
