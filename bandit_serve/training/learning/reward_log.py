"""Ratings out of an experiment's log: predictions joined with their rewards."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from msgspec import Struct

from bandit_serve.log.events import HELD_OUT, Event, Exposed, Rewarded
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.repairs import LeftOut
from bandit_serve.log.snapshot import Codec
from bandit_serve.log.times import GRACE_MS
from bandit_serve.training.rating_rule import RatingRule

MAX_OPEN = 1_000_000

Key = tuple[int, int]


class Rating(NamedTuple):
    """Rating from a reward. `value` is the reward by the rule; it was logged at `time_ms`."""

    user: str
    item: str
    value: float
    features: dict[str, Any] | None
    time_ms: int


class _Open(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Decision that waits for its reward, or reward that waits for its decision."""

    until_ms: int
    user: str = ""
    item: str = ""
    features: dict[str, Any] | None = None
    value: float | None = None


class _State(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    open: list[tuple[Key, _Open]]
    lost: int


_CODEC = Codec(_State, "a reward log")


class RewardLog:
    """Fold of one experiment's log into ratings. Each reward that the log holds is one, and is given once.

    A decision is kept until its window has closed, and at most a million of them: `lost` counts those that were given
    up before. Decisions of the holdout are not given, as nothing learns from them.
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
                del self._open[key]
                value = self._rule.rating(waiting.value)
                ratings.append(Rating(pair.user, pair.item, value, pair.features, time_ms))
            elif waiting is None:
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
            elif waiting.value is None:
                del self._open[key]
                value = self._rule.rating(reward)
                ratings.append(Rating(waiting.user, waiting.item, value, waiting.features, time_ms))
        return ratings

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
