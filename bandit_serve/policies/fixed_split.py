"""Classic A/B test: shares that no reward changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Unpack

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bandit_serve.base.names import Name
from bandit_serve.policies.context_free import ContextFreePolicy, Rule, Statistics
from bandit_serve.policies.numbers import Vector, in_order, refusal, weights
from bandit_serve.policies.objectives import ALL
from bandit_serve.policies.parameters import MAX_ARMS, Weight
from bandit_serve.policies.policy import Terms

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import FixedSplitKeywords

# At least one weight is above 0.
SOME: dict[str, Any] = {"not": {"additionalProperties": {"maximum": 0}}}


class FixedSplitParameters(Struct, frozen=True):
    shares: (
        Annotated[
            dict[Name, Weight],
            Meta(
                max_length=MAX_ARMS,
                description="a weight for each arm, 0 for those not named; even unless given",
                extra_json_schema=SOME,
            ),
        ]
        | None
    ) = None


class FixedSplit(ContextFreePolicy):
    """Each arm's share is its weight in `shares` over their sum; even if not given.

    `shares` is a weight for every arm, (n_arms,), or a mapping of arms to weights in which the others have 0.
    Over eligible arms whose weights are all 0 the split is even. Rewards are counted, for `means`.
    `Policy` says the rest.
    """

    kind: ClassVar[str] = "fixed_split"
    objectives: ClassVar[frozenset[str]] = ALL
    Parameters: ClassVar[type[Struct]] = FixedSplitParameters
    learns: ClassVar[bool] = False

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, **given: Unpack[FixedSplitKeywords]) -> None: ...

    @classmethod
    def checked(cls, own: Any, terms: Terms, n_arms: int) -> Any:
        if own.shares is None:
            return own
        given = own.shares
        if isinstance(given, Mapping):
            given = in_order("shares", given, n_arms, 0.0)
        split = weights("shares", given, n_arms)
        if not split.any():
            raise refusal("shares", "shares must have at least one number above 0")
        return msgspec.structs.replace(own, shares=split.tolist())

    @classmethod
    def rule_of(cls, own: Any, objective: str) -> Rule:
        split = None if own.shares is None else np.array(own.shares)

        def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
            return np.ones(arms.size) if split is None else split[arms]

        return Rule(shares)
