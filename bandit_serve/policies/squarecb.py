"""SquareCB: shares in inverse proportion to what an arm is predicted to fall short by (Foster & Rakhlin 2020)."""

from __future__ import annotations

from typing import ClassVar, Unpack

from bandit_serve.experiments.metrics import KINDS
from bandit_serve.policies.contextual import ContextualCommon, ContextualPolicy, positive
from bandit_serve.policies.policy import finite


class SquareCB(ContextualPolicy):
    """1 / (E + gamma · gap) to each arm but the best, which has what is left. For the rest see `ContextualPolicy`.

    E: the eligible arms; gap: how far the arm's predicted reward is below the largest. Arms that tie for the
    largest divide its share evenly.

    gamma: above 0; the more, the less is explored. None, the default, is the paper's sqrt(E · t / regret of the
        regression) for a horizon that is not known, with σ² D as that regret's order:
        30 · sqrt(E · (1 + n) / (D · σ²)), n the observations so far, D the coefficients of a model, and σ the standard
        deviation that the rewards are found to have about their predictions, 0.5 before there are any.
    optimism: at least 0. What is predicted is θ'x + optimism · σ · sqrt(x' (A + λ)⁻¹ x); 0 is the paper's. Ridge
        regression shrinks what an arm of few observations is predicted to give towards 0, and such an arm would
        hardly be chosen again; with the width added, as in LinUCB, it is until it is known.
    """

    kind: ClassVar[str] = "squarecb"
    objectives: ClassVar[frozenset[str]] = frozenset(KINDS)
    parameters: ClassVar[tuple[str, ...]] = ("gamma", "optimism", *ContextualPolicy.parameters)
    choice: ClassVar[str] = "inverse_gap"

    def __init__(
        self,
        n_arms: int,
        n_features: int,
        *,
        gamma: float | None = None,
        optimism: float = 1.0,
        **common: Unpack[ContextualCommon],
    ) -> None:
        gamma = None if gamma is None else positive("gamma", gamma)
        if finite("optimism", optimism) != 0.0:
            optimism = positive("optimism", optimism)
        own = {"gamma": gamma, "optimism": float(optimism)}
        super().__init__(
            n_arms, n_features, own, 0.0 if gamma is None else gamma, optimism=float(optimism), **common
        )
