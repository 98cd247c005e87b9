"""KL-UCB: the arm whose mean could be the largest, by the divergence of its rewards' law."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.policies import _kl_ucb
from bandit_serve.policies.context_free import ContextFreePolicy, Rule, Statistics
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.objectives import BOUNDED

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import KLUCBKeywords


class KLUCBParameters(Struct, frozen=True):
    pass


class KLUCB(ContextFreePolicy):
    """All of the share to the arm of the largest q for which n · KL(p, q) <= ln t. `Policy` says the rest.

    p: the arm's mean reward scaled to [0, 1]; n: its observations; t: those of all eligible arms; KL: the
    divergence of Bernoulli laws, which bounds that of any laws in [0, 1] with these means. Arms without
    observations come first; arms that tie divide the share evenly.

    Garivier & Cappé 2011, Algorithm 1, with c = 0, as its authors recommend in practice.
    """

    kind: ClassVar[str] = "kl_ucb"
    objectives: ClassVar[frozenset[str]] = BOUNDED
    Parameters: ClassVar[type[Struct]] = KLUCBParameters
    jumps: ClassVar[bool] = True

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, **given: Unpack[KLUCBKeywords]) -> None: ...

    @classmethod
    def rule_of(cls, own: Any, objective: str) -> Rule:
        return Rule(shares, _kl_ucb.CHOOSER)


def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
    return _kl_ucb.shares(statistics["n"], statistics["total"])
