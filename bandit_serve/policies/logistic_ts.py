"""Thompson sampling for 0/1 rewards whose log odds are linear, with Laplace's approximation kept up online."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Unpack

from msgspec import Meta, Struct

from bandit_serve.policies.contextual import ContextualParameters, ContextualPolicy, ScoreRule
from bandit_serve.policies.objectives import BOUNDED
from bandit_serve.policies.parameters import Factor

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import LogisticTSKeywords


class LogisticTSParameters(ContextualParameters, frozen=True):
    scale: Annotated[
        Factor, Meta(description="the width of draws relative to the posterior's; less explores less")
    ] = 0.1


class LogisticTS(ContextualPolicy):
    """P(arm is best) under draws of the coefficients of its log odds. For the rest see `ContextualPolicy`.

    scale: the width of the draws relative to the posterior's, above 0; less than 1 explores less (Chapelle & Li 2011,
        Algorithm 3 and section 3, whose diagonal precision is the whole matrix here).

    The posterior is Normal. A reward moves its mean to the maximum of the prior times the reward's likelihood and
    adds p (1 - p) x x' to its precision, p at the new mean (Spiegelhalter & Lauritzen 1990). A bounded reward, scaled
    to [0, 1], counts as the part of a success that it is. Shares and choices are as those of `LinTS`.
    """

    kind: ClassVar[str] = "logistic_ts"
    objectives: ClassVar[frozenset[str]] = BOUNDED
    Parameters: ClassVar[type[Struct]] = LogisticTSParameters
    logit: ClassVar[bool] = True

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, n_features: int, **given: Unpack[LogisticTSKeywords]) -> None: ...

    @classmethod
    def rule_of(cls, own: LogisticTSParameters) -> ScoreRule:
        return ScoreRule("posterior_draw", own.scale, logistic=True)
