"""Traffic of the demo: visits, sent as by visitors, and a tally of their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.demo.experiment import DemoExperiment
from bandit_serve.demo.recommender import reward_of
from bandit_serve.errors import BanditServeError
from bandit_serve.training.visits import Visit


class Tally:
    """Counts of visits and rewards by arm, numbered as in `arms`.

    outcomes : float64 (n, K), the reward of each visit under each arm. A live service sees one a visit; here every
        recommender can be tried on every visit, so the arms' true means and the regret are known.
    """

    def __init__(self, arms: tuple[str, ...], outcomes: NDArray[np.float64]) -> None:
        self.arms = arms
        self.true_means: NDArray[np.float64] = outcomes.mean(axis=0)
        self.planned = len(outcomes)
        self.sent = 0
        self.done = 0
        self.visits = np.zeros(len(arms), np.int64)
        self.rewards = np.zeros(len(arms))
        self._number = {arm: number for number, arm in enumerate(arms)}
        self._arm_of_visit = np.full(len(outcomes), -1, np.int64)

    def count(self, visit: int, arm: str, reward: float) -> None:
        """Counts a visit; `visit` is its number in the order of sending."""
        number = self._number[arm]
        self._arm_of_visit[visit] = number
        self.visits[number] += 1
        self.rewards[number] += reward
        self.done += 1

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean rewards, float64 (K,), of the visits that each arm got; 0 for an arm without visits."""
        means: NDArray[np.float64] = self.rewards / np.maximum(self.visits, 1)
        return means

    @property
    def best(self) -> int:
        return int(np.argmax(self.true_means))

    @property
    def regret(self) -> float:
        """Expected loss in rewards against every visit on the best arm."""
        return float(self.visits.sum() * self.true_means.max() - self.visits @ self.true_means)

    @property
    def regret_of_even_split(self) -> float:
        """Regret of an even split of the same visits."""
        return float(self.done * (self.true_means.max() - self.true_means.mean()))

    def last_fifth(self) -> NDArray[np.float64]:
        """Shares, float64 (K,), of the arms among the last fifth of the visits sent."""
        last = self._arm_of_visit[: self.sent][-max(1, self.sent // 5) :]
        counts = np.bincount(last[last >= 0], minlength=len(self.arms))
        shares: NDArray[np.float64] = counts / max(1, counts.sum())
        return shares


AT_ONCE = 24
"""Few beside the number of visits: the bandit learns from what has come back."""


async def send(
    experiment: DemoExperiment, visits: Sequence[Visit], tally: Tally, enough: Callable[[int], bool]
) -> None:
    """Sends the visits in order, up to AT_ONCE at a time, until all are sent or `enough(sent)` is true."""
    order = enumerate(visits)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(visits))):
                group.create_task(_visitor(experiment, order, tally, enough))
    except BaseExceptionGroup as errors:
        # Several visitors fail for one reason: the first says it.
        raise errors.exceptions[0] from None


async def _visitor(
    experiment: DemoExperiment,
    order: Iterator[tuple[int, Visit]],
    tally: Tally,
    enough: Callable[[int], bool],
) -> None:
    while not enough(tally.sent):
        number, visit = next(order, (-1, None))
        if visit is None:
            return
        tally.sent += 1
        ranked = await experiment.client.predict(experiment.name, visit.user, item_ids=visit.items)
        if ranked.predictions is None or ranked.decision_id is None:
            raise BanditServeError(f"A visit was served {ranked.arm} without a decision.")
        reward = reward_of(visit, ranked.predictions)
        verdict = await experiment.client.reward(ranked.decision_id, reward)
        if verdict not in ("accepted", "duplicate"):
            raise BanditServeError(f"A reward was not counted: {verdict}.")
        tally.count(number, ranked.arm, reward)
