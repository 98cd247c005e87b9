"""Ordered lists of arms: each place is a decision of its own, drawn from the arms that are not placed yet.

Given what is placed above it, a place's propensity is exact: the policy's share of its arm among those that were left.
So the probability of a whole list is the product of its propensities.
"""

from __future__ import annotations

import random

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bandit_serve.api.decisions import DecideRequest
from bandit_serve.decisions.control_decider import ControlDecider
from bandit_serve.decisions.decider import Choice, Decider
from bandit_serve.errors import Conflict


def place_arms(
    decider: Decider | ControlDecider, request: DecideRequest, x: NDArray[np.float32] | None
) -> list[Choice]:
    """Choices from the first place to the last; fewer than there are slots where fewer arms may be placed.

    An arm of weight 0 is placed only where it is eligible and no other is. The choices of one list have the same random
    number as their unit. Where nothing is drawn, the arm that everyone gets comes first, then the others in order.
    """
    first = decider.choose(request.unit, request.eligible, x, request.context)
    if first.draw is None:
        others = [arm for arm in sorted(decider.takers(request.eligible)) if arm != first.arm]
        return [first, *(Choice(arm, 1.0, 0, None, None) for arm in others[: decider.slots - 1])]
    assert isinstance(decider, Decider)
    of_the_list = random.getrandbits(64) | 1
    first = replace(first, unit=of_the_list)
    choices, left = [first], decider.takers(request.eligible) - decider.weightless - {first.arm}
    while left and len(choices) < decider.slots:
        choice = replace(decider.choose_from(left, x), unit=of_the_list)
        choices.append(choice)
        left -= {choice.arm}
    return choices


def only_decides(decider: Decider | ControlDecider) -> Conflict:
    """Error for a request for one arm, or for its prediction."""
    return Conflict(
        f"The experiment {decider.id!r} has {decider.slots} slots: ask it to decide, one list a request."
    )
