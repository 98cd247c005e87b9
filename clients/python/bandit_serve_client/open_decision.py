"""Decision that takes its rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bandit_serve_client.decisions import Decision
from bandit_serve_client.rewards import AnyReward, Reward

Put = Callable[[AnyReward], bool]


@dataclass(frozen=True, slots=True)
class OpenDecision(Decision):
    """Decision whose rewards are queued, and sent in the background."""

    put: Put = field(kw_only=True, repr=False, compare=False)

    @classmethod
    def of(cls, decision: Decision, put: Put) -> OpenDecision:
        names = Decision.__dataclass_fields__
        fields: dict[str, Any] = {name: getattr(decision, name) for name in names}
        return cls(**fields, put=put)

    def reward(self, value: float | None, *, metric: str | None = None, event_id: str | None = None) -> bool:
        """Queues a reward without waiting.

        False where it will not count: nothing was drawn, or the queue is full. Raises ValueError for a value that is no
        finite number.
        """
        reward = Reward(self.decision_id, value, metric, event_id)
        return reward.settled is None and self.put(reward)
