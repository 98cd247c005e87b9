"""Thompson sampling for linear rewards (Agrawal & Goyal 2013, Algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Unpack

from msgspec import Meta, Struct

from bandit_serve.policies.contextual import ContextualParameters, ContextualPolicy, ScoreRule
from bandit_serve.policies.objectives import ALL
from bandit_serve.policies.parameters import Factor

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import LinTSKeywords


class LinTSParameters(ContextualParameters, frozen=True):
    scale: Annotated[
        Factor, Meta(description="the width of draws relative to the posterior's; less explores less")
    ] = 0.5


class LinTS(ContextualPolicy):
    """P(arm is best) under draws from Normal(θ, (scale · σ)² (A + λ)⁻¹). For the rest see `ContextualPolicy`.

    scale: the width of the draws relative to the posterior's, above 0. σ is the standard deviation that the rewards are
        found to have about their predictions, 0.5 before there are any. 1 is the posterior under Normal noise; less
        explores less (Chapelle & Li 2011, section 3).

    For given features the scores of arms with models of their own are independent and normal: `shares` integrates
    P(the score is the largest), and `choose` draws one score for each arm, which is the same distribution. Arms that
    share a model have scores that depend on each other: there the shares are the parts of 256 draws of the
    coefficients under which each arm is best, made when something was learned and by what was learned, and
    `choose` draws from those shares.
    """

    kind: ClassVar[str] = "lin_ts"
    objectives: ClassVar[frozenset[str]] = ALL
    Parameters: ClassVar[type[Struct]] = LinTSParameters

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, n_features: int, **given: Unpack[LinTSKeywords]) -> None: ...

    @classmethod
    def rule_of(cls, own: LinTSParameters) -> ScoreRule:
        return ScoreRule("posterior_draw", own.scale)
