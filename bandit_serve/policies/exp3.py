"""Exp3: for rewards of which nothing is supposed, not even that they have a mean (adversarial bandits)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Unpack

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bandit_serve.policies import _exp3
from bandit_serve.policies.context_free import ContextFreePolicy, Rule, Statistics
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.objectives import BOUNDED

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import Exp3Keywords


class Exp3Parameters(Struct, frozen=True):
    gamma: (
        Annotated[
            float,
            Meta(gt=0.0, le=1.0, description="the part that is split evenly; by the paper unless given"),
        ]
        | None
    ) = None


class Exp3(ContextFreePolicy):
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
    objectives: ClassVar[frozenset[str]] = BOUNDED
    Parameters: ClassVar[type[Struct]] = Exp3Parameters
    weighs: ClassVar[bool] = True

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, **given: Unpack[Exp3Keywords]) -> None: ...

    @classmethod
    def rule_of(cls, own: Exp3Parameters, objective: str) -> Rule:
        gamma = own.gamma or 0.0

        def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
            return _exp3.shares(statistics["n"], statistics["gain"], gamma)

        return Rule(shares, _exp3.CHOOSER, (gamma,))
