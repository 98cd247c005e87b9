"""Metrics of an experiment that clients send, and the values that each takes: by token, by unit and from files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from bandit_serve.api.rewards import DecisionReward, Reward
from bandit_serve.base.clock import rfc3339
from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.errors import FieldError
from bandit_serve.experiments.spec import Record
from bandit_serve.rewards.event_ids import EVENT_ID, is_event_id

NULL = "expected a number: null takes back an event, and needs its event_id"

Takes = Callable[[Any], bool]


class ClientMetrics:
    """Metrics of one experiment but for those that the service measures itself.

    Further ones may join; `since_ms` says from when on, by index. Decisions of before have none of them.
    """

    def __init__(self, record: Record) -> None:
        experiment = record.experiment
        since_ms = record.since_ms
        self.since_ms = {
            i: since_ms[metric.name] for i, metric in enumerate(experiment.metrics) if metric.name in since_ms
        }
        self.n = len(experiment.metrics)
        self._metrics = {metric.name: metric for metric in experiment.metrics if not metric.served}
        self._objective = experiment.objective.name
        self._places: dict[str | None, tuple[int, Takes]] = {
            metric.name: (i, metric.traits.takes)
            for i, metric in enumerate(experiment.metrics)
            if not metric.served
        }
        self._places[None] = self._places[self._objective]

    def __contains__(self, name: str) -> bool:
        return name in self._metrics

    def index_of(self, reward: Reward | DecisionReward) -> int | None:
        """Index of a reward's metric among all of the experiment; None where the reward has a `mistake`."""
        place = self._places.get(reward.metric)
        if place is None or (reward.event_id is not None and not is_event_id(reward.event_id)):
            return None
        takes = reward.event_id is not None if reward.value is None else place[1](reward.value)
        return place[0] if takes else None

    def misses(self, metric: int, time_ms: int) -> bool:
        """Return whether a decision made at `time_ms` was before the metric of this index joined."""
        return time_ms < self.since_ms.get(metric, time_ms)

    def mistake_of_time(self, reward: Reward | DecisionReward, time_ms: int) -> FieldError | None:
        """Mistake of a reward for a decision that was made before its metric joined; None without one."""
        metric = self.index_of(reward)
        if metric is None or not self.misses(metric, time_ms):
            return None
        since = rfc3339(self.since_ms[metric])
        return FieldError("metric", f"expected a decision since {since}, when {reward.metric} joined")

    def mistake(self, reward: Reward | DecisionReward) -> FieldError | None:
        """Mistake in a reward's metric, event or value; None without one."""
        metric = self._metrics.get(reward.metric or self._objective)
        if metric is None:
            return FieldError("metric", expected_one_of(reward.metric or "", list(self._metrics)))
        if reward.event_id is not None and not is_event_id(reward.event_id):
            return FieldError("event_id", EVENT_ID)
        if reward.value is None and reward.event_id is None:
            return FieldError("value", NULL)
        refused = None if reward.value is None or reward.value is UNSET else metric.refuses(reward.value)
        return None if refused is None else FieldError("value", refused)
