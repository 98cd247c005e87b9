"""Epsilon-greedy: the arm of the largest mean, and with a small probability any arm."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.metrics import KINDS
from bandit_serve.policies import _greedy
from bandit_serve.policies.policy import Common, Policy, finite, mean_rewards, share_of_all
from bandit_serve.policies.shares import Vector


class EpsilonGreedy(Policy):
    """With probability epsilon / (1 + decay · t) any eligible arm, otherwise the one of the largest mean.

    t: the observations of all eligible arms, as far as they are not forgotten. Arms without observations come
    first, before any mean; arms that tie divide their part evenly. `Policy` says the rest.

    epsilon: from 0 to 1, default 0.1. decay: at least 0, default 0, with which exploration goes on for ever, at a
        cost that grows in proportion to t; with decay d > 0 it sums up to (epsilon / d) · ln(1 + d·t). What
        Auer, Cesa-Bianchi & Fischer 2002, Figure 3, have, min(1, c / t), is nearly epsilon 1 and decay 1 / c.
    """

    kind: ClassVar[str] = "epsilon_greedy"
    objectives: ClassVar[frozenset[str]] = frozenset(KINDS)
    parameters: ClassVar[tuple[str, ...]] = ("epsilon", "decay")

    def __init__(
        self, n_arms: int, *, epsilon: float = 0.1, decay: float = 0.0, **common: Unpack[Common]
    ) -> None:
        self.epsilon, self.decay = share_of_all("epsilon", epsilon), finite("decay", decay)
        if not 0.0 <= self.decay <= 1e9:
            raise InvalidInput(f"decay must be from 0 to 1e9, not {decay!r}")
        super().__init__(
            n_arms,
            {"epsilon": self.epsilon, "decay": self.decay},
            chooser=_greedy.CHOOSER,
            constants=(self.epsilon, self.decay),
            **common,
        )

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        n = statistics["n"]
        mean = np.where(n > 0.0, mean_rewards(statistics), np.inf)
        best = mean == mean.max()
        explored = self.epsilon / (1.0 + self.decay * n.sum())
        return np.asarray(explored / n.size + (1.0 - explored) * best / np.count_nonzero(best))
