"""Top-two Thompson sampling: the arm that seems best, or its challenger, to find out soon which is best."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve.policies.policy import Common, share_of_all
from bandit_serve.policies.shares import Vector
from bandit_serve.policies.thompson import Prior, Thompson

# Where the others are best with less than this chance in all, its quadrature's error of about 1e-12 may show.
NEAR_CERTAIN = 1e-4
BLURRED = 1e-10


class TopTwoThompson(Thompson):
    """With probability `beta` Thompson's choice, otherwise the first other one that drawing again comes upon.

    Russo 2016, "Simple Bayesian Algorithms for Best Arm Identification", Algorithm 3. With P the probabilities that
    each arm is the best, arm k's share is

        P_k · (beta + (1 - beta) · sum over j other than k of P_j / (1 - P_j)).

    beta: from 0 to 1, default 0.5. About this share goes to the best arm in the long run and the rest to those
        that may yet beat it, so that regret grows in proportion to time: it is for finding the best arm, and
        `thompson` for serving it.
    prior: as of `Thompson`, with the same likelihoods.

    Where one arm is best but for a chance of about 1e-10, so that no quadrature can tell the others apart by it, the
    challenger turns into the one of Thompson sampling among the others.
    """

    kind: ClassVar[str] = "top_two_thompson"
    parameters: ClassVar[tuple[str, ...]] = ("beta", "prior")

    def __init__(
        self, n_arms: int, *, beta: float = 0.5, prior: Prior | None = None, **common: Unpack[Common]
    ) -> None:
        self.beta = share_of_all("beta", beta)
        super().__init__(n_arms, prior=prior, leading=self.beta, **common)
        self.own["beta"] = self.beta

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        best = super().raw_shares(statistics, arms)
        if arms.size == 1:
            return best
        first = int(best.argmax())
        second = best[first] * self._after(first, best, statistics, arms)
        others = np.arange(arms.size) != first
        # Each of the others leads with at most 1/2, so that nothing cancels in 1 - P.
        odds = np.where(others, best / (1.0 - np.where(others, best, 0.0)), 0.0)
        second += best * (odds.sum() - odds)
        return np.asarray(self.beta * best + (1.0 - self.beta) * second)

    def _after(
        self, leader: int, best: Vector, statistics: dict[str, Vector], arms: NDArray[np.intp]
    ) -> Vector:
        """How likely each arm is the challenger of the `leader`, (E,), by the probabilities `best`, (E,)."""
        chances = best.copy()
        chances[leader] = 0.0
        if chances.sum() < NEAR_CERTAIN:
            others = np.arange(arms.size) != leader
            rest = {name: values[others] for name, values in statistics.items()}
            chances[others] += BLURRED * super().raw_shares(rest, arms[others])
        return np.asarray(chances / chances.sum())

    def challengers(self, leader: int, arms: NDArray[np.intp]) -> Vector:
        """How likely each of `arms` (E,) is the challenger when `leader`, one of them, leads: float64 (E,)."""
        statistics = {name: values[arms] for name, values in self.statistics().items()}
        best = super().raw_shares(statistics, arms)
        return self._after(int(np.flatnonzero(arms == leader)[0]), best, statistics, arms)

    def grown_parameters(self, more: int) -> dict[str, Any]:
        return {"beta": self.beta, **super().grown_parameters(more)}
