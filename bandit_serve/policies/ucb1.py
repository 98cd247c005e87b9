"""UCB1: the arm whose mean could be the largest (Auer, Cesa-Bianchi & Fischer 2002, Figure 1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Unpack

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bandit_serve.metrics import KINDS, names_of
from bandit_serve.policies import _ucb1
from bandit_serve.policies._arms import deviation
from bandit_serve.policies.context_free import ContextFreePolicy, Rule, Statistics, mean_rewards
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.parameters import Scale

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import UCB1Keywords


class UCB1Parameters(Struct, frozen=True):
    sigma: (
        Annotated[
            Scale,
            Meta(
                description="the standard deviation of an arm's rewards or a bound on it; 1, or for a continuous "
                "objective what they show, unless given"
            ),
        ]
        | None
    ) = None


class UCB1(ContextFreePolicy):
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
    Parameters: ClassVar[type[Struct]] = UCB1Parameters
    in_unit: ClassVar[str | None] = "sigma"
    jumps: ClassVar[bool] = True

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, **given: Unpack[UCB1Keywords]) -> None: ...

    @classmethod
    def rule_of(cls, own: UCB1Parameters, objective: str) -> Rule:
        # NaN where the rewards are to show it.
        sigma = own.sigma if own.sigma is not None else math.nan if KINDS[objective].unbounded else 1.0

        def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
            return _ucb1.shares(
                statistics["n"],
                mean_rewards(statistics),
                deviation(**statistics) if math.isnan(sigma) else sigma,
            )

        return Rule(shares, _ucb1.CHOOSER, (sigma,))
