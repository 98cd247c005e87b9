"""The visits, sent as visitors would come: a prediction is asked for, then a reward is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from bandit_serve.demo.recommender import reward_of
from bandit_serve.demo.tally import Tally
from bandit_serve.demo.trial import Trial
from bandit_serve.errors import BanditServeError
from bandit_serve.training.visits import Visit

AT_ONCE = 24
"""Few beside the number of visits: the bandit learns from what has come back."""


async def send(trial: Trial, visits: Sequence[Visit], tally: Tally, enough: Callable[[int], bool]) -> None:
    """Sends the visits in their order, up to AT_ONCE at a time, until all are sent or `enough(sent)`."""
    order = enumerate(visits)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(visits))):
                group.create_task(_visitor(trial, order, tally, enough))
    except BaseExceptionGroup as errors:
        # Several visitors fail for one reason: the first says it.
        raise errors.exceptions[0] from None


async def _visitor(
    trial: Trial, order: Iterator[tuple[int, Visit]], tally: Tally, enough: Callable[[int], bool]
) -> None:
    path = f"/v1/experiments/{trial.experiment}/predict"
    while not enough(tally.sent):
        number, visit = next(order, (-1, None))
        if visit is None:
            return
        tally.sent += 1
        ranked = await trial.http.post(path, {"user_id": visit.user, "item_ids": visit.items})
        reward = reward_of(visit, ranked["predictions"])
        report = await trial.http.post("/v1/rewards", {"decision_id": ranked["decision_id"], "value": reward})
        if report["accepted"] + report["duplicates"] != 1:
            raise BanditServeError(f"A reward was not counted: {report['verdicts'][0]}.")
        tally.count(number, ranked["arm"], reward)
