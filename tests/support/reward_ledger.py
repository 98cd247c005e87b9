"""Ledger of rewards: what each decision's values are after any sends, by Python's own exact sums."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.metrics import MetricKind


class Entry(NamedTuple):
    """Change of a decision's value on a metric; NaN is none."""

    decision: Hashable
    metric: int
    value: float
    former: float
    is_first: bool


class RewardLedger:
    """Rewards that were taken. `scope` of a decision is what its events are known by: itself, or its unit."""

    def __init__(self, kinds: list[MetricKind], max_events: int = 10**9) -> None:
        self._kinds = kinds
        self._max_events = max_events
        # Event's decision and value, which is None once it was taken back, by scope, metric and id.
        self._events: dict[tuple[Hashable, int, Hashable], tuple[Hashable, float | None]] = {}
        self._plain: dict[tuple[Hashable, int], float] = {}
        self._began: set[tuple[Hashable, int]] = set()
        self._had_events: set[tuple[Hashable, int]] = set()
        self.changes: list[Entry] = []

    def value(self, decision: Hashable, metric: int) -> float:
        """Value of a decision; NaN where it has none."""
        events = self._events.items()
        present = [v for (_, m, _), (d, v) in events if (d, m) == (decision, metric) and v is not None]
        if (decision, metric) in self._plain:
            present.append(self._plain[decision, metric])
        if not present:
            return math.nan
        return max(present) if self._kinds[metric].takes_max else math.fsum(present)

    def send(
        self,
        decision: Hashable,
        metric: int,
        value: float | None,
        event: Hashable | None = None,
        scope: Hashable | None = None,
    ) -> RewardVerdict:
        """Takes one reward; returns its verdict."""
        key = (decision if scope is None else scope, metric, event)
        if event is None:
            assert value is not None
            if (decision, metric) in self._plain:
                return "duplicate" if self._plain[decision, metric] == value else "conflict"
            return self._change(decision, metric, lambda: self._plain.__setitem__((decision, metric), value))
        known = key in self._events
        if known:
            decision, former = self._events[key]
            if former == value:
                return "duplicate"
        elif value is None:
            return "unmatched"
        elif (
            sum((d, m) == (decision, metric) for (_, m, _), (d, _) in self._events.items())
            >= self._max_events
        ):
            return "invalid"
        verdict = self._change(
            decision, metric, lambda: self._events.__setitem__(key, (decision, value)), by_event=True
        )
        if verdict == "invalid" or not known:
            return verdict
        return "retracted" if value is None else "corrected"

    def _change(self, decision: Hashable, metric: int, change, *, by_event: bool = False) -> RewardVerdict:
        kept = (dict(self._events), dict(self._plain))
        former = self.value(decision, metric)
        change()
        value = self.value(decision, metric)
        low, high = self._kinds[metric].value_limits
        if not math.isnan(value) and not low <= value <= high:
            self._events, self._plain = kept
            return "invalid"
        place = (decision, metric)
        if by_event:
            self._had_events.add(place)
        if value != former and not (math.isnan(value) and math.isnan(former)) and place in self._had_events:
            self.changes.append(Entry(decision, metric, value, former, place not in self._began))
        self._began.add(place)
        return "accepted"
