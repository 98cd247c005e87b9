"""Decisions with features that wait for their rewards, for contextual policies.

Where a missing reward counts as zero, a policy without context counts missing rewards (`pending.py`). One with context
has to know their decisions. So each decision is kept with its features until its window has closed, by log time, and is
then learned from once: by its reward, or by zero. Until then it is not learned from at all, whether its reward has come
or not: rewards that come early and zeros that come late would make every arm look better than it is.

Where a missing reward is ignored, rewards are learned from as they come, and only decisions whose values are sums of
events wait here, as those may change and a regression can not be told so. Each is learned from once, by the value that
it has when its window closes, and not at all if that is gone by then.

A reward may come before its exposure, and an exposure never, when its worker crashed: either of them is enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.folds.attribution.buckets import Buckets
from bandit_serve.log.events import FIRST
from bandit_serve.log.times import LINGER_MS

MAX_OPEN = 100_000
# All of them are in each snapshot.
MAX_OPEN_BYTES = 64 * 2**20

Decision = tuple[int, int]


class JoinedState(Struct, frozen=True, forbid_unknown_fields=True):
    """State of `JoinedDecisions`.

    `open` has columns for bucket, worker, number, arm, value, features, and whether the exposure came; `early` has
    worker, number and bucket.
    """

    one_in: int
    open: list[tuple[int, int, int, int, float, bytes, bool]]
    early: list[tuple[int, int, int]]


class Learned(NamedTuple):
    """Closed decisions to learn from: n rows with features x. `values`, float64 (n,), are NaN where no reward came."""

    arms: NDArray[np.intp]
    values: NDArray[np.float64]
    x: NDArray[np.float32]


class JoinedDecisions:
    """Open decisions with their features. Times are Unix milliseconds.

    all_wait: whether exposures open decisions; otherwise only values that may change do.
    A decision is identified by its worker's incarnation and its number there. At most `MAX_OPEN` decisions, and
    `MAX_OPEN_BYTES` of features, are kept. With more, only each `one_in`th is learned from, chosen by its number, so
    the estimates stay unbiased.
    """

    def __init__(self, window_ms: int, n_features: int, *, all_wait: bool = True) -> None:
        self.all_wait = all_wait
        self.one_in = 1
        self._n_features = n_features
        self._most_open = min(MAX_OPEN, MAX_OPEN_BYTES // (4 * n_features))
        self._buckets = Buckets(window_ms)
        self._open: dict[int, dict[Decision, tuple[int, float, bytes]]] = {}
        self._n_open = 0
        # Learned from before their exposure came, which may yet come.
        self._early: dict[Decision, int] = {}
        self._exposed: set[Decision] = set()

    def __len__(self) -> int:
        return self._n_open

    def exposed(
        self,
        incarnation: int,
        first: int,
        arms: NDArray[np.uint16],
        times_ms: NDArray[np.int64],
        x: NDArray[np.float32],
        unlearned: NDArray[np.bool_] | None = None,
        *,
        last: bool = True,
    ) -> None:
        """Adds n logged decisions, numbered from `first`; `unlearned` marks those that are not learned from.

        A batch may come in parts, to the same state as at once; `last` is true for its last part.
        """
        start = -first % self.one_in
        for i in range(start, len(arms), self.one_in):
            if unlearned is not None and unlearned[i]:
                continue
            decision = (incarnation, first + i)
            if self._early.pop(decision, None) is not None:
                continue
            bucket = self._open.setdefault(int(times_ms[i]) // self._buckets.width_ms, {})
            if decision not in bucket:
                bucket[decision] = (int(arms[i]), math.nan, x[i].tobytes())
                self._n_open += 1
            self._exposed.add(decision)
        if last:
            self._thin()

    def rewarded(self, rows: NDArray[np.void], x: NDArray[np.float32], *, last: bool = True) -> None:
        """Adds rewards of the objective (`events.REWARD`) outside the holdout, with their decisions' features.

        `last` as in `exposed`.
        """
        self._set(rows, x, [True] * len(rows), last)

    def revised(self, rows: NDArray[np.void], x: NDArray[np.float32], *, last: bool = True) -> None:
        """Sets values of the objective (`events.REVISION`) outside the holdout, NaN for one that is gone.

        Changes of values that are not held, as their decisions are closed, are passed over. x, `last` as in `rewarded`.
        """
        self._set(rows, x, (rows["since_ms"] == FIRST).tolist(), last)

    def _set(self, rows: NDArray[np.void], x: NDArray[np.float32], opening: list[bool], last: bool) -> None:
        """Sets the values of decisions that are open, or that their rows open."""
        columns = (rows[name].tolist() for name in ("incarnation", "counter", "time_ms", "arm", "value"))
        for i, (incarnation, counter, time_ms, arm, value) in enumerate(zip(*columns, strict=True)):
            if counter % self.one_in:
                continue
            decision, number = (incarnation, counter), time_ms // self._buckets.width_ms
            if not opening[i] and decision not in self._open.get(number, ()):
                continue
            bucket = self._open.setdefault(number, {})
            self._n_open += decision not in bucket
            bucket[decision] = (arm, value, x[i].tobytes())
        if last:
            self._thin()

    def close(self, now_ms: int, most: int = MAX_OPEN) -> Iterator[Learned]:
        """Closes decisions whose windows have ended, in order of time, and yields at most `most` at once.

        They are closed as the iterator advances, so take all of them.
        """
        due = sorted(bucket for bucket in self._open if self._buckets.closes_ms(bucket) < now_ms)
        for bucket in due:
            decisions = self._open.pop(bucket)
            self._n_open -= len(decisions)
            order = sorted(decisions)
            for start in range(0, len(order), most):
                yield self._learned(decisions, order[start : start + most], bucket)
        if due:
            for decision, bucket in list(self._early.items()):
                if self._buckets.closes_ms(bucket) + LINGER_MS < now_ms:
                    del self._early[decision]

    def _learned(
        self, decisions: dict[Decision, tuple[int, float, bytes]], some: list[Decision], bucket: int
    ) -> Learned:
        for decision in some:
            if decision in self._exposed:
                self._exposed.discard(decision)
            elif self.all_wait:
                self._early[decision] = bucket
        arms, values, x = zip(*(decisions[decision] for decision in some), strict=True)
        return Learned(
            np.array(arms, np.intp),
            np.array(values, np.float64),
            np.frombuffer(b"".join(x), "<f4").reshape(len(x), self._n_features),
        )

    def next_close_ms(self) -> int | None:
        """Time from which a tick closes a decision; None without open decisions."""
        return self._buckets.closes_ms(min(self._open)) + 1 if self._open else None

    def _thin(self) -> None:
        while self._n_open > self._most_open:
            self.one_in *= 2
            for bucket in self._open.values():
                for decision in [each for each in bucket if each[1] % self.one_in]:
                    del bucket[decision]
                    self._exposed.discard(decision)
                    self._n_open -= 1

    def state(self) -> JoinedState:
        return JoinedState(
            one_in=self.one_in,
            open=[
                (bucket, *decision, *self._open[bucket][decision], decision in self._exposed)
                for bucket in sorted(self._open)
                for decision in sorted(self._open[bucket])
            ],
            early=[(*decision, self._early[decision]) for decision in sorted(self._early)],
        )

    @classmethod
    def from_state(
        cls, window_ms: int, n_features: int, state: JoinedState, *, all_wait: bool = True
    ) -> JoinedDecisions:
        """Decisions that had this state. Raises `ValueError` where it has another number of features."""
        joined = cls(window_ms, n_features, all_wait=all_wait)
        if state.one_in < 1:
            raise ValueError(f"each {state.one_in}th decision is learned from")
        joined.one_in = state.one_in
        for bucket, incarnation, counter, arm, value, x, exposed in state.open:
            if len(x) != 4 * n_features:
                raise ValueError(f"a decision has {len(x)} bytes of features, not {4 * n_features}")
            decision = (incarnation, counter)
            joined._open.setdefault(bucket, {})[decision] = (arm, value, x)
            joined._n_open += 1
            if exposed:
                joined._exposed.add(decision)
        joined._early = {(incarnation, counter): bucket for incarnation, counter, bucket in state.early}
        return joined
