"""UCB1: the arm whose mean could be the largest (Auer, Cesa-Bianchi & Fischer 2002, Figure 1)."""

from __future__ import annotations

import math
from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.metrics import names_of
from bandit_serve.policies import _ucb1
from bandit_serve.policies._arms import deviation
from bandit_serve.policies.policy import UNBOUNDED, Common, Policy, mean_rewards, positive
from bandit_serve.policies.shares import Vector


class UCB1(Policy):
    """All of the share to the arm of the largest p + sigma · sqrt(2 ln t / n). `Policy` says the rest.

    p: the arm's mean reward, scaled to [0, 1] unless the objective is unbounded; n: its observations; t: those of
    all eligible arms. Arms without observations come first; arms that tie divide the share evenly.

    sigma: above 0; 1 is the paper's for rewards in [0, 1], and the default there. For an unbounded objective it is the
        standard deviation of an arm's rewards, or a bound on it, in their own units: they are supposed to have no
        heavier tails than a Normal law (sub-Gaussian). None, the default there, is the standard deviation within
        arms that the eligible arms have shown.
    """

    kind: ClassVar[str] = "ucb1"
    objectives: ClassVar[frozenset[str]] = names_of(lambda kind: kind.sub_gaussian)
    parameters: ClassVar[tuple[str, ...]] = ("sigma",)
    jumps: ClassVar[bool] = True

    def __init__(self, n_arms: int, *, sigma: float | None = None, **common: Unpack[Common]) -> None:
        self.sigma = None if sigma is None else positive("sigma", sigma)
        super().__init__(
            n_arms,
            {"sigma": self.sigma},
            chooser=_ucb1.CHOOSER,
            constants=(self._sigma(common.get("objective") in UNBOUNDED),),
            **common,
        )

    def _sigma(self, unbounded: bool) -> float:
        """NaN where the rewards are to show it."""
        return self.sigma if self.sigma is not None else math.nan if unbounded else 1.0

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        sigma = self._sigma(self.unbounded)
        return _ucb1.shares(
            statistics["n"],
            mean_rewards(statistics),
            deviation(**statistics) if math.isnan(sigma) else sigma,
        )
