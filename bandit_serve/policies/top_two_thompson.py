"""Top-two Thompson sampling: the arm that seems best, or its challenger, to find out soon which is best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Unpack

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from bandit_serve.policies._arms import MAX_REDRAWS
from bandit_serve.policies.context_free import ContextFreePolicy, Rule, Statistics
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.policy import Terms
from bandit_serve.policies.thompson import Thompson, ThompsonParameters

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import TopTwoThompsonKeywords

# Of a leader whose redraws fail with less than this chance, what follows them is not worth an integral.
NEGLIGIBLE = 1e-13


class TopTwoThompsonParameters(ThompsonParameters, frozen=True):
    beta: Annotated[
        float, Meta(ge=0.0, le=1.0, description="the part of decisions that goes to the arm that seems best")
    ] = 0.5


class TopTwoThompson(ContextFreePolicy):
    """With probability `beta` Thompson's choice, otherwise the first other one that drawing again comes upon.

    Russo 2016, "Simple Bayesian Algorithms for Best Arm Identification", Algorithm 3. With P the probabilities that
    each arm is the best, arm k's share is

        P_k · (beta + (1 - beta) · sum over j other than k of P_j / (1 - P_j)).

    Where an arm is all but certain to be the best, drawing again would not end. So after 64 times the challenger is
    Thompson's choice among the other arms: that is as good as never for a leader of P = 2/3, once in 800 times for
    one of .9, and for one of .999 nearly always.

    beta: from 0 to 1, default 0.5. About this share goes to the best arm in the long run and the rest to those
        that may yet beat it, so that regret grows in proportion to time: it is for finding the best arm, and
        `thompson` for serving it.
    prior: as of `Thompson`, with the same likelihoods.
    """

    kind: ClassVar[str] = "top_two_thompson"
    objectives: ClassVar[frozenset[str]] = Thompson.objectives
    Parameters: ClassVar[type[Struct]] = TopTwoThompsonParameters
    in_unit: ClassVar[str | None] = "prior"

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, **given: Unpack[TopTwoThompsonKeywords]) -> None: ...

    @classmethod
    def checked(cls, own: Any, terms: Terms, n_arms: int) -> Any:
        return Thompson.checked(own, terms, n_arms)

    @classmethod
    def rule_of(cls, own: Any, objective: str) -> Rule:
        rule, beta = Thompson.rule_of(own, objective), own.beta

        def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
            best = rule.shares(statistics, arms)
            if arms.size == 1:
                return best
            if arms.size == 2:
                return np.asarray(beta * best + (1.0 - beta) * best[::-1])
            # How often in MAX_REDRAWS times, if each of the arms leads, it is drawn again, and never another.
            redraws = (best[:, None] ** np.arange(MAX_REDRAWS)).sum(axis=1)
            never = best ** (MAX_REDRAWS + 1)
            led = best * redraws
            second = best * (led.sum() - led)
            for leader in np.flatnonzero(never > NEGLIGIBLE):
                others = np.arange(arms.size) != leader
                rest = {name: values[others] for name, values in statistics.items()}
                second[others] += never[leader] * rule.shares(rest, arms[others])
            return np.asarray(beta * best + (1.0 - beta) * second)

        return rule._replace(shares=shares, leading=beta)
