"""Thompson sampling for 0/1 rewards whose log odds are linear, with Laplace's approximation kept up online."""

from __future__ import annotations

from typing import ClassVar, Unpack

from bandit_serve.experiments.metrics import names_of
from bandit_serve.policies.contextual import ContextualCommon, ContextualPolicy, positive


class LogisticTS(ContextualPolicy):
    """P(arm is best) under draws of the coefficients of its log odds. For the rest see `ContextualPolicy`.

    scale: the width of the draws beside the posterior's, above 0; less than 1 explores less (Chapelle & Li 2011,
        Algorithm 3 and section 3, whose diagonal precision is the whole matrix here).

    The posterior is Normal. A reward moves its mean to the maximum of the prior times the reward's likelihood and
    adds p (1 - p) x x' to its precision, p at the new mean (Spiegelhalter & Lauritzen 1990). A bounded reward, scaled
    to [0, 1], counts as the part of a success that it is. Shares and choices are as those of `LinTS`.
    """

    kind: ClassVar[str] = "logistic_ts"
    objectives: ClassVar[frozenset[str]] = names_of(lambda kind: not kind.unbounded)
    parameters: ClassVar[tuple[str, ...]] = ("scale", *ContextualPolicy.parameters)
    choice: ClassVar[str] = "posterior_draw"
    logit: ClassVar[bool] = True

    def __init__(
        self, n_arms: int, n_features: int, *, scale: float = 0.1, **common: Unpack[ContextualCommon]
    ) -> None:
        scale = positive("scale", scale)
        super().__init__(n_arms, n_features, {"scale": scale}, scale, **common)
