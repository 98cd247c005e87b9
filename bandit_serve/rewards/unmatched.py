"""Rewards by unit that were unmatched: kept for a while in memory, in case their exposure is still on its way."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from bandit_serve.base.turns import Turn

MAX_UNMATCHED = 100_000
"""Rewards that one worker keeps; each takes about 400 bytes."""

A_TURN = 200

Event = tuple[int, int, int, int]
"""Experiment's uid, hash of the unit, metric, and hash of the event's id."""


class Unmatched(NamedTuple):
    """Reward that no exposure was in force for: its time `at_ms`, Unix, its value, and its mark (`last_sent.py`)."""

    event: Event
    at_ms: int
    value: float
    until_s: float
    mark: bytes


class UnmatchedRewards:
    """Rewards by unit that wait for their exposure, in the order in which they came, for `kept_ms` each.

    Of an event the last value is kept. Where more than `MAX_UNMATCHED` wait, the oldest go first, counted in `dropped`.
    """

    def __init__(self, kept_ms: int) -> None:
        self._kept_s = kept_ms / 1000
        # Ordered: a dict would look for its first one past all that were dropped before.
        self._waiting: OrderedDict[Event, Unmatched] = OrderedDict()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, event: Event, at_ms: int, value: float, mark: bytes) -> None:
        if not self._kept_s:
            return
        self._waiting.pop(event, None)
        self._waiting[event] = Unmatched(event, at_ms, value, time.monotonic() + self._kept_s, mark)
        if len(self._waiting) > MAX_UNMATCHED:
            self._waiting.popitem(last=False)
            self.dropped += 1

    def forget(self, events: Iterable[Event]) -> None:
        """Drops what an event waited with: another value of it has come."""
        if self._waiting:
            for event in events:
                self._waiting.pop(event, None)

    def forget_experiment(self, uid: int) -> None:
        self.forget([event for event in self._waiting if event[0] == uid])

    def has(self, reward: Unmatched) -> bool:
        """Whether a reward still waits, and nothing newer of its event has come."""
        return self._waiting.get(reward.event) is reward

    def drop(self, rewards: Iterable[Unmatched]) -> None:
        """Drops rewards, but nothing newer of their events."""
        self.forget([reward.event for reward in rewards if self.has(reward)])

    async def by_experiment(self) -> dict[int, list[Unmatched]]:
        """Rewards that still wait, by the uid of their experiment; those whose time is over are dropped."""
        now_s, turn = time.monotonic(), Turn()
        groups: dict[int, list[Unmatched]] = {}
        rewards = list(self._waiting.values())
        for start in range(0, len(rewards), A_TURN):
            for reward in rewards[start : start + A_TURN]:
                if reward.until_s < now_s:
                    self.drop([reward])
                else:
                    groups.setdefault(reward.event[0], []).append(reward)
            if turn.over:
                await turn.give_way()
        return groups
