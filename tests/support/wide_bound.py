"""Wide bound: LinUCB by another name."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from bandit_serve.policies import POLICIES, ContextualPolicy
from bandit_serve.policies.contextual import ContextualParameters, ScoreRule
from bandit_serve.policies.objectives import ALL


class WideBoundParameters(ContextualParameters, frozen=True):
    width: Annotated[float, Meta(ge=1.0, lt=100.0, description="standard errors above a score")] = 3.0


class WideBound(ContextualPolicy):
    """All to the arm of the largest upper bound, `width` standard errors above its score."""

    kind: ClassVar[str] = "wide_bound"
    objectives: ClassVar[frozenset[str]] = ALL
    Parameters: ClassVar[type[Struct]] = WideBoundParameters
    jumps: ClassVar[bool] = True

    @classmethod
    def rule_of(cls, own: WideBoundParameters) -> ScoreRule:
        return ScoreRule("upper_bound", own.width)


# The line of the table.
POLICIES[WideBound.kind] = WideBound
