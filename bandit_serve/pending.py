"""Decisions whose attribution window is open, for experiments in which a missing reward counts as zero.

They are kept as counts by time of decision, in buckets of 1/`BUCKETS` of the window, so their memory does not grow
with the traffic. When a bucket's window has closed, by log time, those of its decisions that got no reward count as
zeros, once. Until then they count by how likely a reward would have come by now, Σ G_k(age) (Vernade, Cappé and
Perchet 2017), with G_k the delays that were seen for arm k.

A reward may come before its exposure, and an exposure after its window has closed or, when its worker crashed, never.
So rewards that wait for an exposure are remembered by decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUCKETS = 256
DELAY_BINS = 48
POOLED_WEIGHT = 8.0
# How long after its window a rewarded decision is remembered whose exposure may still come.
LINGER_MS = 3_600_000

Counts = NDArray[np.int64]


class PendingDecisions:
    """Times are Unix milliseconds. Everything is integers, so the fold is the same wherever it runs."""

    def __init__(self, window_ms: int, n_arms: int) -> None:
        self.window_ms = window_ms
        self.n_arms = n_arms
        self._width_ms = max(1, math.ceil(window_ms / BUCKETS))
        self._exposed: dict[int, Counts] = {}
        self._rewarded: dict[int, Counts] = {}
        self._reached: dict[int, tuple[int, int]] = {}
        self._lost: dict[int, list[tuple[int, int]]] = {}
        self._early: dict[tuple[int, int], tuple[int, int]] = {}
        self._settled: dict[tuple[int, int], tuple[int, int]] = {}
        self._delays: Counts = np.zeros((n_arms, DELAY_BINS), np.int64)
        growth = (max(window_ms, 2)) ** (1.0 / DELAY_BINS)
        self._edges_ms = growth ** np.arange(1, DELAY_BINS + 1)

    def exposed(self, incarnation: int, first: int, arms: NDArray[Any], times_ms: Counts) -> None:
        """n decisions that were logged, numbered from `first` by the worker that made them."""
        buckets = times_ms // self._width_ms
        for bucket in np.unique(buckets).tolist():
            counts = np.bincount(arms[buckets == bucket], minlength=self.n_arms)
            self._exposed[bucket] = self._exposed.get(bucket, 0) + counts
        end = first + len(arms)
        for decision in _within(self._early, incarnation, first, end):
            del self._early[decision]
        for decision in _within(self._settled, incarnation, first, end):
            bucket, arm = self._settled.pop(decision)
            self._exposed[bucket][arm] -= 1
        reached = self._reached.get(incarnation, (0, 0))[0]
        if first > reached:
            self._lost.setdefault(incarnation, []).append((reached, first))
        self._reached[incarnation] = (end, int(times_ms[-1]))

    def take_back(self, arms: NDArray[Any], times_ms: Counts) -> None:
        """Leaves out decisions that `exposed` was told of and that nothing is to be learned from."""
        for bucket, arm in zip((times_ms // self._width_ms).tolist(), arms.tolist(), strict=True):
            self._exposed[bucket][arm] -= 1

    def rewarded(self, rows: NDArray[np.void], now_ms: int) -> None:
        """The objective's rewards (`events.REWARD`), as they arrive."""
        arms = rows["arm"].astype(np.intp)
        delays = np.maximum(now_ms - rows["time_ms"], 1)
        bins = np.minimum(np.searchsorted(self._edges_ms, delays), DELAY_BINS - 1)
        np.add.at(self._delays, (arms, bins), 1)
        buckets = rows["time_ms"] // self._width_ms
        for bucket in np.unique(buckets).tolist():
            counts = np.bincount(arms[buckets == bucket], minlength=self.n_arms)
            self._rewarded[bucket] = self._rewarded.get(bucket, 0) + counts
        for incarnation in np.unique(rows["incarnation"]).tolist():
            counters = rows["counter"]
            early = counters >= self._reached.get(incarnation, (0, 0))[0]
            for low, high in self._lost.get(incarnation, ()):
                early |= (counters >= low) & (counters < high)
            for i in np.flatnonzero(early & (rows["incarnation"] == incarnation)).tolist():
                self._early[incarnation, int(rows["counter"][i])] = (int(buckets[i]), int(arms[i]))

    def close(self, now_ms: int) -> Counts | None:
        """i64[K]: decisions that stayed without a reward and whose window has closed since; None if nothing did."""
        due = sorted(b for b in {*self._exposed, *self._rewarded} if self._closes_ms(b) < now_ms)
        if not due:
            return None
        zeros = np.zeros(self.n_arms, np.int64)
        for bucket in due:
            zeros += self._exposed.pop(bucket, 0)
            zeros -= self._rewarded.pop(bucket, 0)
        for decision, (bucket, arm) in list(self._early.items()):
            if self._closes_ms(bucket) < now_ms:
                zeros[arm] += 1
                self._settled[decision] = self._early.pop(decision)
        self._forget(now_ms)
        return np.maximum(zeros, 0)

    def _forget(self, now_ms: int) -> None:
        for decision, (bucket, _) in list(self._settled.items()):
            if self._closes_ms(bucket) + LINGER_MS < now_ms:
                del self._settled[decision]
        for incarnation, (_, last_ms) in list(self._reached.items()):
            if last_ms + 2 * self.window_ms + LINGER_MS < now_ms:
                del self._reached[incarnation]
                self._lost.pop(incarnation, None)

    def next_close_ms(self) -> int | None:
        """From when on a tick would close something."""
        buckets = {*self._exposed, *self._rewarded}
        return self._closes_ms(min(buckets)) + 1 if buckets else None

    def weights(self, now_ms: int) -> NDArray[np.float64]:
        """f64[K]: how many of the open decisions would have shown a reward by now if they were to get one."""
        buckets = sorted(self._exposed)
        if not buckets or not self._delays.any():
            return np.zeros(self.n_arms)
        ages = np.array([max(now_ms - (2 * b + 1) * self._width_ms // 2, 1) for b in buckets])
        bins = np.minimum(np.searchsorted(self._edges_ms, ages), DELAY_BINS - 1)
        shown = self._shown()[:, bins]
        exposed = np.array([self._exposed[b] for b in buckets]).T
        none = np.zeros(self.n_arms, np.int64)
        rewarded = np.array([self._rewarded.get(b, none) for b in buckets]).T
        weights: NDArray[np.float64] = np.maximum(exposed * shown - rewarded, 0.0).sum(axis=1)
        return weights

    def _shown(self) -> NDArray[np.float64]:
        """f64[K, bins]: the share of an arm's rewards that came within each delay, drawn towards all arms'."""
        pooled = self._delays.sum(axis=0) / self._delays.sum()
        own = self._delays + POOLED_WEIGHT * pooled
        shown: NDArray[np.float64] = np.minimum(np.cumsum(own, axis=1) / own.sum(axis=1, keepdims=True), 1.0)
        return shown

    def _closes_ms(self, bucket: int) -> int:
        return (bucket + 1) * self._width_ms + self.window_ms

    def grown(self, n_arms: int) -> PendingDecisions:
        """The same with more arms, which nothing is pending for."""
        state = self.state()
        more = n_arms - self.n_arms
        for counts in (*state["exposed"], *state["rewarded"]):
            counts[1] += [0] * more
        state["delays"] += [[0] * DELAY_BINS] * more
        return PendingDecisions.from_state(self.window_ms, n_arms, state)

    def state(self) -> dict[str, Any]:
        return {
            "exposed": [[b, self._exposed[b].tolist()] for b in sorted(self._exposed)],
            "rewarded": [[b, self._rewarded[b].tolist()] for b in sorted(self._rewarded)],
            "reached": [[i, *self._reached[i]] for i in sorted(self._reached)],
            "lost": [[i, *ends] for i in sorted(self._lost) for ends in self._lost[i]],
            "early": [[*decision, *self._early[decision]] for decision in sorted(self._early)],
            "settled": [[*decision, *self._settled[decision]] for decision in sorted(self._settled)],
            "delays": self._delays.tolist(),
        }

    @classmethod
    def from_state(cls, window_ms: int, n_arms: int, state: dict[str, Any]) -> PendingDecisions:
        pending = cls(window_ms, n_arms)
        pending._exposed = {b: np.array(counts, np.int64) for b, counts in state["exposed"]}
        pending._rewarded = {b: np.array(counts, np.int64) for b, counts in state["rewarded"]}
        pending._reached = {i: (counter, last_ms) for i, counter, last_ms in state["reached"]}
        for i, low, high in state["lost"]:
            pending._lost.setdefault(i, []).append((low, high))
        pending._early = {(i, counter): (bucket, arm) for i, counter, bucket, arm in state["early"]}
        pending._settled = {(i, counter): (bucket, arm) for i, counter, bucket, arm in state["settled"]}
        pending._delays = np.array(state["delays"], np.int64)
        return pending


def _within(
    decisions: Iterable[tuple[int, int]], incarnation: int, first: int, end: int
) -> list[tuple[int, int]]:
    return [decision for decision in decisions if decision[0] == incarnation and first <= decision[1] < end]
