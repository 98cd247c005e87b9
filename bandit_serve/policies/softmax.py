"""Softmax: shares that rise exponentially with the arms' means (Boltzmann exploration)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Unpack

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bandit_serve.metrics import KINDS
from bandit_serve.policies import _softmax
from bandit_serve.policies._arms import deviation
from bandit_serve.policies.context_free import ContextFreePolicy, Rule, Statistics, mean_rewards
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.objectives import ALL
from bandit_serve.policies.parameters import Scale
from bandit_serve.policies.policy import Terms

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import SoftmaxKeywords

# Temperatures where none is given: in the range of a bounded objective, and in standard deviations.
IN_RANGE, DEVIATIONS = 0.05, 0.1
# The name of a temperature that is not given, in states, too.
AUTO = "auto"


class SoftmaxParameters(Struct, frozen=True):
    temperature: (
        Annotated[
            Scale,
            Meta(
                description="how far below the best a mean may be to be drawn e times less often; 0.05, or without "
                "bounds a tenth of the rewards' standard deviation, unless given"
            ),
        ]
        | None
    ) = None


class Softmax(ContextFreePolicy):
    """Shares in proportion to exp(mean / temperature) (Sutton & Barto 1998, equation 2.2). `Policy` says the rest.

    The means are those of rewards scaled to [0, 1] where the objective has bounds, otherwise of rewards in their
    own units. Arms without observations come first, evenly.

    temperature: above 0, in the unit of the means. Differences between means that are well below it are hardly acted
        on, and arms that lie far more below the best are all but dropped, whether they deserve it or had bad luck: it
        should be near the smallest difference that matters. "auto", the default, is 0.05 where the objective has
        bounds, and otherwise a tenth of the standard deviation within arms that the eligible arms have shown, which
        is as much for a binary objective of mean 1/2.
    """

    kind: ClassVar[str] = "softmax"
    objectives: ClassVar[frozenset[str]] = ALL
    Parameters: ClassVar[type[Struct]] = SoftmaxParameters
    in_unit: ClassVar[str | None] = "temperature"

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, **given: Unpack[SoftmaxKeywords]) -> None: ...

    def settle(self, n_arms: object, given: Mapping[str, Any]) -> dict[str, Any]:
        temperature = given.get("temperature")
        is_auto = isinstance(temperature, str) and temperature == AUTO
        return super().settle(n_arms, {**given, "temperature": None} if is_auto else given)

    @classmethod
    def checked(cls, own: Any, terms: Terms, n_arms: int) -> Any:
        return msgspec.structs.replace(own, temperature=AUTO) if own.temperature is None else own

    @classmethod
    def rule_of(cls, own: Any, objective: str) -> Rule:
        unbounded = KINDS[objective].unbounded
        in_deviations = own.temperature == AUTO and unbounded
        temperature = own.temperature if own.temperature != AUTO else DEVIATIONS if unbounded else IN_RANGE

        def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
            untried = statistics["n"] == 0.0
            if untried.any():
                return np.asarray(untried, dtype=np.float64)
            mean = mean_rewards(statistics)
            unit = temperature * deviation(**statistics) if in_deviations else temperature
            return np.asarray(np.exp((mean - mean.max()) / unit))

        return Rule(shares, _softmax.CHOOSER, (temperature, in_deviations))
