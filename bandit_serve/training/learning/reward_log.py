"""Ratings out of an experiment's log: predictions joined with their rewards."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, NamedTuple

from msgspec import Struct, structs

from bandit_serve.log.events import FIRST, HELD_OUT, Event, Exposed, Pair, Revised, Rewarded
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.repairs import LeftOut
from bandit_serve.log.snapshot import Codec
from bandit_serve.log.times import GRACE_MS
from bandit_serve.training.rating_rule import RatingRule

MAX_OPEN = 1_000_000

Key = tuple[int, int]


class Rating(NamedTuple):
    """Rating from a reward. `value` is the reward by the rule, NaN for one that is gone; it was logged at `time_ms`.

    decision: worker and number. A later rating of the same decision takes the place of the one before.
    """

    user: str
    item: str
    value: float
    features: dict[str, Any] | None
    time_ms: int
    decision: Key


class _Open(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Decision that waits for its reward, or reward that waits for its decision.

    may_change: a reward that is a sum of events; its value is None while it is gone.
    """

    until_ms: int
    user: str = ""
    item: str = ""
    features: dict[str, Any] | None = None
    value: float | None = None
    may_change: bool = False


class _State(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    open: list[tuple[Key, _Open]]
    lost: int


_CODEC = Codec(_State, "a reward log")


class RewardLog:
    """Fold of one experiment's log into ratings. Each reward that the log holds is one, and is given once.

    Of a value that is a sum of events, each change gives a rating anew, while the decision is kept: until its window
    has closed, and at most a million of them; `lost` counts those that were given up before. Decisions of the holdout
    are not given, as nothing learns from them.
    """

    def __init__(self, window_ms: int, rule: RatingRule) -> None:
        self._window_ms = window_ms
        self._rule = rule
        self._open: OrderedDict[Key, _Open] = OrderedDict()
        self.lost = 0
        self.offset = START

    def apply(self, offset: Offset, event: Event | LeftOut) -> list[Rating]:
        """Ratings that the log's entry at `offset` completes, in its order."""
        self._close(offset.time_ms)
        self.offset = offset
        match event:
            case Exposed():
                return self._exposed(offset.time_ms, event)
            case Rewarded():
                return self._rewarded(offset.time_ms, event)
            case Revised():
                return self._revised(offset.time_ms, event)
        return []

    def _exposed(self, time_ms: int, event: Exposed) -> list[Rating]:
        ratings = []
        held_out = event.held_out_rows()
        for pair in event.pairs:
            if held_out is not None and held_out[pair.place]:
                continue
            key = event.incarnation, event.first + pair.place
            waiting = self._open.get(key)
            if waiting is not None and waiting.value is not None:
                ratings.append(self._rating(pair, key, waiting.value, time_ms))
            if waiting is not None and (waiting.may_change or waiting.value is not None):
                del self._open[key]
            if waiting is None or waiting.may_change:
                until_ms = time_ms + self._window_ms + GRACE_MS
                self._keep(key, _Open(until_ms, pair.user, pair.item, pair.features))
        return ratings

    def _rewarded(self, time_ms: int, event: Rewarded) -> list[Rating]:
        ratings = []
        rows = event.rows
        chosen = (rows["metric"] == self._rule.metric) & (rows["flags"] & HELD_OUT == 0)
        for incarnation, counter, reward in zip(
            rows["incarnation"][chosen].tolist(),
            rows["counter"][chosen].tolist(),
            rows["value"][chosen].tolist(),
            strict=True,
        ):
            key = incarnation, counter
            waiting = self._open.get(key)
            if waiting is None:
                self._keep(key, _Open(time_ms + GRACE_MS, value=reward))
            elif waiting.value is None and not waiting.may_change:
                del self._open[key]
                ratings.append(self._rating(waiting, key, reward, time_ms))
        return ratings

    def _revised(self, time_ms: int, event: Revised) -> list[Rating]:
        ratings = []
        rows = event.rows
        chosen = rows[(rows["metric"] == self._rule.metric) & (rows["flags"] & HELD_OUT == 0)]
        columns = (chosen[name].tolist() for name in ("incarnation", "counter", "value", "since_ms"))
        for incarnation, counter, number, since_ms in zip(*columns, strict=True):
            key, reward = (incarnation, counter), None if math.isnan(number) else number
            waiting = self._open.get(key)
            if waiting is None:
                if since_ms == FIRST and reward is not None:
                    self._keep(key, _Open(time_ms + GRACE_MS, value=reward, may_change=True))
            elif waiting.may_change:
                self._open[key] = structs.replace(waiting, value=reward)
            elif waiting.value is None:
                ratings.append(self._rating(waiting, key, reward, time_ms))
        return ratings

    def _rating(self, subject: Pair | _Open, decision: Key, reward: float | None, time_ms: int) -> Rating:
        value = math.nan if reward is None else self._rule.rating(reward)
        return Rating(subject.user, subject.item, value, subject.features, time_ms, decision)

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
        """State that the rest of the log needs."""
        return _CODEC.pack(_State(list(self._open.items()), self.lost))

    @classmethod
    def from_state(cls, offset: Offset, state: bytes, window_ms: int, rule: RatingRule) -> RewardLog:
        """Reward log whose `state` at `offset` this was; `UnreadableEntry` for anything else."""
        fields = _CODEC.unpack(state)
        reward_log = cls(window_ms, rule)
        reward_log._open, reward_log.lost = OrderedDict(fields.open), fields.lost
        reward_log.offset = offset
        return reward_log
