"""KL-UCB: the arm whose mean could be the largest, by the divergence of its rewards' law."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.metrics import names_of
from bandit_serve.policies import _kl_ucb
from bandit_serve.policies.policy import Common, Policy
from bandit_serve.policies.shares import Vector


class KLUCB(Policy):
    """All of the share to the arm of the largest q for which n · KL(p, q) <= ln t. `Policy` says the rest.

    p: the arm's mean reward scaled to [0, 1]; n: its observations; t: those of all eligible arms; KL: the
    divergence of Bernoulli laws, which bounds that of any laws in [0, 1] with these means. Arms without
    observations come first; arms that tie divide the share evenly.

    Garivier & Cappé 2011, Algorithm 1, with c = 0, as its authors recommend in practice.
    """

    kind: ClassVar[str] = "kl_ucb"
    objectives: ClassVar[frozenset[str]] = names_of(lambda kind: not kind.unbounded)
    jumps: ClassVar[bool] = True

    def __init__(self, n_arms: int, **common: Unpack[Common]) -> None:
        super().__init__(n_arms, {}, chooser=_kl_ucb.CHOOSER, **common)

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        return _kl_ucb.shares(statistics["n"], statistics["total"])
