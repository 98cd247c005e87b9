"""The way of a reward through one worker: verify, append."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiment import Experiment
from bandit_serve.live import LiveExperiment
from bandit_serve.log.append import RewardAppender
from bandit_serve.log.tail import Tail
from bandit_serve.replica import Replica
from bandit_serve.rewards.messages import Reward, Verdict
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store
from bandit_serve.token import Keyring

_LETTERS: dict[int, Verdict] = {ord("a"): "accepted", ord("d"): "duplicate", ord("l"): "late"}


class Rewards:
    """The token says everything, so nothing is looked up but the experiment's metrics."""

    def __init__(self, store: Store, replica: Replica, tail: Tail, keyring: Keyring) -> None:
        self.keyring = keyring
        self._store = store
        self._replica = replica
        self._tail = tail
        self._appenders: dict[int, RewardAppender] = {}

    async def submit(self, rewards: Sequence[Reward]) -> list[Verdict]:
        """A verdict for each; returns when the accepted ones are in the log.

        `Unavailable` when that is not known for all of them: nothing was counted, or the retry is a duplicate.
        """
        values = np.array([reward.value for reward in rewards], np.float64)
        rows, uids = self.keyring.open([reward.decision_id for reward in rewards], values)
        verdicts: list[Verdict] = ["invalid"] * len(rewards)
        appends = []
        for uid in np.unique(uids).tolist():
            if uid == 0:
                continue
            places = np.flatnonzero(uids == uid)
            live = self._replica.by_uid.get(uid) or await self._late_arrival(uid)
            if live is None:
                for i in places.tolist():
                    verdicts[i] = "unknown"
                continue
            valid = self._set_metrics(live.experiment, rewards, rows, places)
            if len(valid):
                appends.append(self._append(uid, live, rows[valid], valid, verdicts))
        await _all(appends)
        return verdicts

    def _set_metrics(
        self,
        experiment: Experiment,
        rewards: Sequence[Reward],
        rows: NDArray[np.void],
        places: NDArray[np.intp],
    ) -> NDArray[np.intp]:
        """Sets the rows' metrics; returns the places whose metric exists and takes the value."""
        metrics = {metric.name: (i, metric) for i, metric in enumerate(experiment.metrics)}
        objective = experiment.objective.name
        valid = []
        for i in places.tolist():
            reward = rewards[i]
            found = metrics.get(reward.metric or objective)
            if found is not None and found[1].refuses(reward.value) is None:
                rows["metric"][i] = found[0]
                valid.append(i)
        return np.array(valid, np.intp)

    def refusal(self, reward: Reward) -> tuple[str, str] | None:
        """Why a reward whose token is ours is not valid: the field and what it should be. None: it is the token."""
        _, uids = self.keyring.open([reward.decision_id], np.zeros(1))
        live = self._replica.by_uid.get(int(uids[0]))
        if live is None:
            return None
        metrics = {metric.name: metric for metric in live.experiment.metrics}
        metric = metrics.get(reward.metric or live.experiment.objective.name)
        if metric is None:
            return "metric", f"expected one of {', '.join(metrics)}"
        return "value", metric.refuses(reward.value) or "expected a valid value"

    async def _append(
        self,
        uid: int,
        live: LiveExperiment,
        rows: NDArray[np.void],
        places: NDArray[np.intp],
        verdicts: list[Verdict],
    ) -> None:
        letters = await self._appender(uid, live.experiment).append(rows)
        for i, letter in zip(places.tolist(), letters, strict=True):
            verdicts[i] = _LETTERS[letter]

    def _appender(self, uid: int, experiment: Experiment) -> RewardAppender:
        appender = self._appenders.get(uid)
        if appender is None:
            metrics = tuple(metric.name for metric in experiment.metrics)
            appender = RewardAppender(self._store, experiment.id, metrics, experiment.attribution.window_ms)
            self._appenders[uid] = appender
        return appender

    async def _late_arrival(self, uid: int) -> LiveExperiment | None:
        """An experiment that another worker decided for before this one had heard of it."""
        await self._tail.catch_up(COMMON)
        for name in self._replica.registry.experiments:
            if name not in self._replica.experiments:
                await self._tail.catch_up(name)
        return self._replica.by_uid.get(uid)

    async def drain(self) -> None:
        """Returns when no append is under way."""
        while any(not appender.idle for appender in self._appenders.values()):
            await asyncio.sleep(0.005)


async def _all(appends: list[Coroutine[None, None, None]]) -> None:
    if len(appends) == 1:
        await appends[0]
    elif appends:
        await asyncio.gather(*appends)
