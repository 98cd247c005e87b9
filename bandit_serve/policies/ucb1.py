"""UCB1: the arm whose mean could be the largest (Auer, Cesa-Bianchi & Fischer 2002, Figure 1)."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve import _ucb1
from bandit_serve.policies.policy import Common, Policy
from bandit_serve.policies.shares import Vector


class UCB1(Policy):
    """All of the share to the arm of the largest p + sqrt(2 ln t / n). `Policy` says the rest.

    p: the arm's mean reward scaled to [0, 1]; n: its observations; t: those of all eligible arms.
    Arms without observations come first; arms that tie divide the share evenly.
    """

    kind: ClassVar[str] = "ucb1"
    objectives: ClassVar[frozenset[str]] = frozenset({"binary", "bounded"})
    jumps: ClassVar[bool] = True

    def __init__(self, n_arms: int, **common: Unpack[Common]) -> None:
        super().__init__(n_arms, {}, chooser=_ucb1.CHOOSER, **common)

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        return _ucb1.shares(**statistics)
