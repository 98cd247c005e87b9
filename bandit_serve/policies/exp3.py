"""Exp3: for rewards of which nothing is supposed, not even that they have a mean (adversarial bandits)."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.metrics import names_of
from bandit_serve.policies import _exp3
from bandit_serve.policies.policy import Common, Policy, finite
from bandit_serve.policies.shares import Vector


class Exp3(Policy):
    """Shares (1 - gamma) · w / sum(w) + gamma / K with w = exp(gamma · gain / K). `Policy` says the rest.

    gain: the sum of the arm's rewards, scaled to [0, 1], each over the probability with which the arm was chosen.
    So updates should be given the `propensity`; where they are not, it is taken to be the arm's share at that
    update. Where arms were eligible only in part, or updates come late, that is not what it was.

    gamma: above 0 and at most 1, the part that is split evenly; or None, the default: min(1, sqrt(K ln K /
        ((e - 1) t))) with t the observations of all eligible arms, what the paper's Corollary 3.2 has for a horizon
        of t. The mixing is the policy's own; `min_share` and `holdout` come on top.

    Auer, Cesa-Bianchi, Freund & Schapire 2002, Figure 1.
    """

    kind: ClassVar[str] = "exp3"
    objectives: ClassVar[frozenset[str]] = names_of(lambda kind: not kind.unbounded)
    parameters: ClassVar[tuple[str, ...]] = ("gamma",)
    weighs: ClassVar[bool] = True

    def __init__(self, n_arms: int, *, gamma: float | None = None, **common: Unpack[Common]) -> None:
        self.gamma = None if gamma is None else finite("gamma", gamma)
        if self.gamma is not None and not 0.0 < self.gamma <= 1.0:
            raise InvalidInput(f"gamma must be above 0 and at most 1, not {gamma!r}")
        super().__init__(
            n_arms, {"gamma": self.gamma}, chooser=_exp3.CHOOSER, constants=(self.gamma or 0.0,), **common
        )

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        return _exp3.shares(statistics["n"], statistics["gain"], self.gamma or 0.0)
