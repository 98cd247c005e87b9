"""Epsilon-greedy: the arm of the largest mean, and with a small probability any arm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Unpack

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bandit_serve.policies import _greedy
from bandit_serve.policies.context_free import ContextFreePolicy, Rule, Statistics, mean_rewards
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.objectives import ALL

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import EpsilonGreedyKeywords


class EpsilonGreedyParameters(Struct, frozen=True):
    epsilon: Annotated[
        float, Meta(ge=0.0, le=1.0, description="the part of decisions that goes to any arm")
    ] = 0.1
    decay: Annotated[float, Meta(ge=0.0, le=1e9, description="how fast that part falls; 0: never")] = 0.0


class EpsilonGreedy(ContextFreePolicy):
    """With probability epsilon / (1 + decay · t) any eligible arm, otherwise the one of the largest mean.

    t: the observations of all eligible arms, as far as they are not forgotten. Arms without observations come
    first, before any mean; arms that tie divide their part evenly. `Policy` says the rest.

    epsilon: from 0 to 1, default 0.1. decay: at least 0, default 0, with which exploration goes on for ever, at a
        cost that grows in proportion to t; with decay d > 0 it sums up to (epsilon / d) · ln(1 + d·t). What
        Auer, Cesa-Bianchi & Fischer 2002, Figure 3, have, min(1, c / t), is nearly epsilon 1 and decay 1 / c.
    """

    kind: ClassVar[str] = "epsilon_greedy"
    objectives: ClassVar[frozenset[str]] = ALL
    Parameters: ClassVar[type[Struct]] = EpsilonGreedyParameters

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, **given: Unpack[EpsilonGreedyKeywords]) -> None: ...

    @classmethod
    def rule_of(cls, own: EpsilonGreedyParameters, objective: str) -> Rule:
        def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
            n = statistics["n"]
            mean = np.where(n > 0.0, mean_rewards(statistics), np.inf)
            best = mean == mean.max()
            explored = own.epsilon / (1.0 + own.decay * n.sum())
            return np.asarray(explored / n.size + (1.0 - explored) * best / np.count_nonzero(best))

        return Rule(shares, _greedy.CHOOSER, (own.epsilon, own.decay))
