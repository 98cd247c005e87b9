"""LinUCB: the arm whose mean for these features could be the largest (Li et al. 2010, Algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Unpack

from msgspec import Meta, Struct

from bandit_serve.policies.contextual import ContextualParameters, ContextualPolicy, ScoreRule
from bandit_serve.policies.objectives import ALL
from bandit_serve.policies.parameters import Factor

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import LinUCBKeywords


class LinUCBParameters(ContextualParameters, frozen=True):
    alpha: Annotated[Factor, Meta(description="how many standard errors above its score an arm may be")] = 1.0


class LinUCB(ContextualPolicy):
    """All to the arm of the largest θ'x + alpha · σ · sqrt(x' (A + λ)⁻¹ x). For the rest see `ContextualPolicy`.

    alpha: how many standard errors, above 0. As in the paper with σ = 1; σ here is the standard deviation that the
        rewards are found to have about their predictions, so that one alpha fits rewards in any unit, and
        0.5 before there are any.
    Arms that tie divide the share evenly.
    """

    kind: ClassVar[str] = "lin_ucb"
    objectives: ClassVar[frozenset[str]] = ALL
    Parameters: ClassVar[type[Struct]] = LinUCBParameters
    jumps: ClassVar[bool] = True

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, n_features: int, **given: Unpack[LinUCBKeywords]) -> None: ...

    @classmethod
    def rule_of(cls, own: LinUCBParameters) -> ScoreRule:
        return ScoreRule("upper_bound", own.alpha)
