"""LinUCB: the arm whose mean for these features could be the largest (Li et al. 2010, Algorithm 1)."""

from __future__ import annotations

from typing import ClassVar, Unpack

from bandit_serve.experiments.metrics import KINDS
from bandit_serve.policies.contextual import ContextualCommon, ContextualPolicy, positive


class LinUCB(ContextualPolicy):
    """All to the arm of the largest θ'x + alpha · σ · sqrt(x' (A + λ)⁻¹ x). For the rest see `ContextualPolicy`.

    alpha: how many standard errors, above 0. As in the paper with σ = 1; σ here is the standard deviation that the
        rewards are found to have about their predictions, so that one alpha fits rewards in any unit, and
        0.5 before there are any.
    Arms that tie divide the share evenly.
    """

    kind: ClassVar[str] = "lin_ucb"
    objectives: ClassVar[frozenset[str]] = frozenset(KINDS)
    parameters: ClassVar[tuple[str, ...]] = ("alpha", *ContextualPolicy.parameters)
    jumps: ClassVar[bool] = True
    choice: ClassVar[str] = "upper_bound"

    def __init__(
        self, n_arms: int, n_features: int, *, alpha: float = 1.0, **common: Unpack[ContextualCommon]
    ) -> None:
        alpha = positive("alpha", alpha)
        super().__init__(n_arms, n_features, {"alpha": alpha}, alpha, **common)
