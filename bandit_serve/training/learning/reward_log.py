"""Ratings out of an experiment's log: what predictions were about, joined with their rewards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from bandit_serve.log.events import HELD_OUT, Event, Exposed, Rewarded
from bandit_serve.training.rating_rule import RatingRule

# A reward may come before the flush that says what its decision was; and tokens are honoured a while longer.
GRACE_MS = 120_000
MAX_OPEN = 1_000_000

Key = tuple[int, int]


class Rating(NamedTuple):
    """`value` is what the rule makes of the reward; `time_ms` when that was logged."""

    user: str
    item: str
    value: float
    features: dict[str, Any] | None
    time_ms: int


class _Open(Struct, array_like=True):
    """A decision that waits for its reward, or a reward for its decision: one or the other."""

    until_ms: int
    user: str = ""
    item: str = ""
    features: dict[str, Any] | None = None
    value: float | None = None


class _State(Struct, array_like=True):
    open: list[tuple[Key, _Open]]
    lost: int


class RewardLog:
    """A fold of one experiment's log into ratings. Each reward that the log holds is one, and is given once.

    A decision is kept until its window has closed, and at most a million of them: `lost` counts those that were given
    up before. Decisions of the holdout are not given, as nothing learns from them.
    """

    def __init__(self, window_ms: int, rule: RatingRule) -> None:
        self._window_ms = window_ms
        self._rule = rule
        self._open: OrderedDict[Key, _Open] = OrderedDict()
        self.lost = 0

    def apply(self, time_ms: int, event: Event) -> Iterator[Rating]:
        """The ratings that an event at a time of the log completes, in its order."""
        self._close(time_ms)
        match event:
            case Exposed():
                yield from self._exposed(time_ms, event)
            case Rewarded():
                yield from self._rewarded(time_ms, event)
            case _:
                pass

    def _exposed(self, time_ms: int, event: Exposed) -> Iterator[Rating]:
        held_out = event.held_out_rows()
        for pair in event.pairs:
            if held_out is not None and held_out[pair.place]:
                continue
            key = event.incarnation, event.first + pair.place
            waiting = self._open.get(key)
            if waiting is not None and waiting.value is not None:
                del self._open[key]
                rating = self._rule.rating(waiting.value)
                yield Rating(pair.user, pair.item, rating, pair.features, time_ms)
            elif waiting is None:
                until_ms = time_ms + self._window_ms + GRACE_MS
                self._keep(key, _Open(until_ms, pair.user, pair.item, pair.features))

    def _rewarded(self, time_ms: int, event: Rewarded) -> Iterator[Rating]:
        rows = event.rows
        chosen = (rows["metric"] == self._rule.metric) & (rows["flags"] & HELD_OUT == 0)
        for incarnation, counter, value in zip(
            rows["incarnation"][chosen].tolist(),
            rows["counter"][chosen].tolist(),
            rows["value"][chosen].tolist(),
            strict=True,
        ):
            key = incarnation, counter
            waiting = self._open.get(key)
            if waiting is None:
                self._keep(key, _Open(time_ms + GRACE_MS, value=value))
            elif waiting.value is None:
                del self._open[key]
                rating = self._rule.rating(value)
                yield Rating(waiting.user, waiting.item, rating, waiting.features, time_ms)

    def _keep(self, key: Key, waiting: _Open) -> None:
        self._open[key] = waiting
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)
            self.lost += 1

    def _close(self, time_ms: int) -> None:
        while self._open:
            key = next(iter(self._open))
            if self._open[key].until_ms >= time_ms:
                return
            del self._open[key]

    def state(self) -> bytes:
        """All that the rest of the log needs."""
        return msgspec.msgpack.encode(_State(list(self._open.items()), self.lost))

    def restore(self, state: bytes) -> None:
        found = msgspec.msgpack.decode(state, type=_State)
        self._open, self.lost = OrderedDict(found.open), found.lost
