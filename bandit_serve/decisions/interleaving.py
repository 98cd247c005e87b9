"""Interleaving: one list that two arms draft from their own, by turns, so that each click says whose item it was.

Team draft (Radlinski, Kurup, Joachims 2008, "How does clickthrough data reflect retrieval quality?", algorithm 2).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.api.decisions import PredictedItem, PredictRequest, ScoredItem
from bandit_serve.decisions.decider import Choice, Decider
from bandit_serve.decisions.draw import Draw
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.log.token import Keyring
from bandit_serve.serving.servable import Scores

Coin = Callable[[], bool]
"""Returns True or False, each with probability 1/2."""


class Drafted(NamedTuple):
    """Item of a drafted list, and which of the two lists it was taken from: 0 or 1."""

    item: ScoredItem
    team: int


def team_draft(lists: tuple[Sequence[ScoredItem], Sequence[ScoredItem]], k: int, coin: Coin) -> list[Drafted]:
    """Drafts at most `k` different items from two lists, best first.

    The team with fewer items takes its best one that is not there yet; where both have as many, `coin` says who. A team
    whose list is at its end takes no more.
    """
    drafted: list[Drafted] = []
    taken: set[str] = set()
    ahead, sizes = [0, 0], [0, 0]
    while len(drafted) < k:
        for team in (0, 1):
            while ahead[team] < len(lists[team]) and lists[team][ahead[team]].item_id in taken:
                ahead[team] += 1
        able = [team for team in (0, 1) if ahead[team] < len(lists[team])]
        if not able:
            break
        team = int(coin()) if sizes[0] == sizes[1] else int(sizes[1] < sizes[0])
        team = team if team in able else able[0]
        item = lists[team][ahead[team]]
        drafted.append(Drafted(item, team))
        taken.add(item.item_id)
        sizes[team] += 1
    return drafted


def require_list(request: PredictRequest) -> int:
    """Returns k. Raises `InvalidInput` for a request that asks for no list, or for that of chosen arms."""
    if request.k is None:
        raise _expected("k", "expected k: this experiment interleaves the lists of its arms")
    if request.eligible is not None:
        raise _expected("eligible", "expected none: this experiment interleaves the lists of both its arms")
    return request.k


def fair_coin() -> bool:
    return random.random() < 0.5


async def score_both(
    score: Callable[[int], Scores | Awaitable[Scores]],
) -> tuple[Scores | Exception, Scores | Exception]:
    """Scores, or the error, of both arms."""

    async def of(arm: int) -> Scores | Exception:
        try:
            scores = score(arm)
            return scores if isinstance(scores, dict) else await scores
        except Exception as error:
            return error

    first, second = await asyncio.gather(of(0), of(1))
    return first, second


def credited(
    decider: Decider,
    draw: Draw,
    x: NDArray[np.float32] | None,
    drafted: Sequence[Drafted],
    keyring: Keyring,
    time_ms: int,
) -> list[PredictedItem]:
    """Logs each item as a decision of the arm that placed it, all with the same random number as their unit.

    An item is as likely to be placed by one arm as by the other, so that is its decision's propensity.
    """
    request = random.getrandbits(64) | 1
    return [
        PredictedItem(
            item.item_id,
            item.score,
            decider.arm_names[team],
            decider.record(Choice(team, draw.propensities[team], request, draw, x), keyring, time_ms),
        )
        for item, team in drafted
    ]


def uncredited(decider: Decider, items: Sequence[ScoredItem], arm: int) -> list[PredictedItem]:
    """List of one arm alone: nothing is compared, so nothing is logged."""
    return [PredictedItem(item.item_id, item.score, decider.arm_names[arm], None) for item in items]


def _expected(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
