"""Ledger of rewards: what each decision's values are after any sends, by Python's own exact sums."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.metrics import MetricKind

Place = tuple[Hashable, int]


class Change(NamedTuple):
    """Change of a decision's value on a metric by events; NaN is none."""

    decision: Hashable
    metric: int
    value: float
    former: float
    is_first: bool


class RewardLedger:
    """Rewards that were taken, by decision and metric. `kinds` are those of the metrics."""

    def __init__(self, kinds: Sequence[MetricKind], max_events: int = 10**9) -> None:
        self._kinds = kinds
        self._max_events = max_events
        # By scope, metric and id: the decision that the event stays with.
        self._homes: dict[tuple[Hashable, int, Hashable], Hashable] = {}
        # By place and id: the event's value, None once it was taken back.
        self._events: dict[Place, dict[Hashable, float | None]] = defaultdict(dict)
        self._plain: dict[Place, float] = {}
        self.changes: list[Change] = []

    @property
    def places(self) -> set[Place]:
        """Decisions and metrics with a reward, be it one that was taken back."""
        return {place for place, events in self._events.items() if events} | set(self._plain)

    def value(self, decision: Hashable, metric: int) -> float:
        """Value of a decision; NaN where it has none."""
        place = (decision, metric)
        return self._value(metric, self._events.get(place, {}), self._plain.get(place))

    def _value(self, metric: int, events: dict[Hashable, float | None], plain: float | None) -> float:
        present = [value for value in (*events.values(), plain) if value is not None]
        if not present:
            return math.nan
        return max(present) if self._kinds[metric].takes_max else math.fsum(present)

    def send(
        self,
        decision: Hashable,
        metric: int,
        value: float | None,
        event: Hashable | None = None,
        *,
        unit: Hashable | None = None,
    ) -> RewardVerdict:
        """Takes one reward; returns its verdict. unit: that of the decision, where events are known by unit."""
        if event is None:
            assert value is not None
            return self._send_plain((decision, metric), value)
        scope = (decision if unit is None else unit, metric, event)
        is_known = scope in self._homes
        place = (self._homes.get(scope, decision), metric)
        events = self._events[place]
        if not is_known and value is None:
            return "unmatched"
        if is_known and events[event] == value:
            return "duplicate"
        if not is_known and len(events) >= self._max_events:
            return "invalid"
        if not self._change(place, {**events, event: value}, self._plain.get(place), by_event=True):
            return "invalid"
        self._homes[scope] = place[0]
        if not is_known:
            return "accepted"
        return "retracted" if value is None else "corrected"

    def _send_plain(self, place: Place, value: float) -> RewardVerdict:
        before = self._plain.get(place)
        if before is not None:
            return "duplicate" if before == value else "conflict"
        events = self._events.get(place, {})
        return "accepted" if self._change(place, events, value, by_event=bool(events)) else "invalid"

    def _change(
        self, place: Place, events: dict[Hashable, float | None], plain: float | None, *, by_event: bool
    ) -> bool:
        former, value = self.value(*place), self._value(place[1], events, plain)
        low, high = self._kinds[place[1]].value_limits
        if not (math.isnan(value) or low <= value <= high):
            return False
        is_first = not self._events.get(place) and place not in self._plain
        if by_event and value != former and not (math.isnan(value) and math.isnan(former)):
            self.changes.append(Change(*place, value, former, is_first))
        if by_event:
            self._events[place] = events
        if plain is not None:
            self._plain[place] = plain
        return True
