"""SquareCB: shares in inverse proportion to what an arm is predicted to fall short by (Foster & Rakhlin 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Unpack

from msgspec import Meta, Struct

from bandit_serve.policies.contextual import ContextualParameters, ContextualPolicy, ScoreRule
from bandit_serve.policies.numbers import refusal
from bandit_serve.policies.objectives import ALL
from bandit_serve.policies.parameters import Factor
from bandit_serve.policies.policy import Terms

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import SquareCBKeywords


class SquareCBParameters(ContextualParameters, frozen=True):
    gamma: (
        Annotated[Factor, Meta(description="the more, the less is explored; a schedule unless given")] | None
    ) = None
    optimism: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1e9,
            description="standard errors that are added to a score",
            extra_json_schema={"not": {"exclusiveMinimum": 0.0, "exclusiveMaximum": 1e-9}},
        ),
    ] = 1.0


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
    objectives: ClassVar[frozenset[str]] = ALL
    Parameters: ClassVar[type[Struct]] = SquareCBParameters

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, n_features: int, **given: Unpack[SquareCBKeywords]) -> None: ...

    @classmethod
    def checked(cls, own: Any, terms: Terms, n_arms: int) -> Any:
        if 0.0 < own.optimism < 1e-9:
            raise refusal("optimism", f"optimism must be 0 or from 1e-9 to 1e9, not {own.optimism!r}")
        return super().checked(own, terms, n_arms)

    @classmethod
    def rule_of(cls, own: SquareCBParameters) -> ScoreRule:
        return ScoreRule("inverse_gap", own.gamma or 0.0, own.optimism)
