"""Decisions whose attribution window is open, for experiments in which a missing reward counts as zero.

They are kept as counts by time of decision, in buckets (`buckets.py`), so their memory does not grow
with the traffic. When a bucket's window has closed, by log time, those of its decisions that got no reward count as
zeros, once. Until then they count by how likely a reward would have come by now, Σ G_k(age) (Vernade, Cappé and
Perchet 2017), with G_k the delays of arm k (`delays.py`).

A reward may come before its exposure, and an exposure after its window has closed or, when its worker crashed, never.
So rewards that wait for an exposure are remembered by decision.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from bandit_serve.folds.attribution import _delays
from bandit_serve.folds.attribution.buckets import Buckets
from bandit_serve.folds.attribution.delays import Delays, DelaysState
from bandit_serve.log.events import FIRST, MAX_COUNTER, ON_DEMAND, rewards_of
from bandit_serve.log.times import LINGER_MS

Counts = NDArray[np.int64]
Decisions = dict[int, dict[int, tuple[int, int]]]
"""By worker and number: the bucket and the arm."""
_NEVER = 2**62


class PendingState(Struct, frozen=True, forbid_unknown_fields=True):
    """State of `PendingDecisions`.

    It has counts by bucket; for each worker, the number and time up to which it has logged; gaps in the logged numbers;
    and decisions with bucket and arm.
    """

    exposed: list[tuple[int, list[int]]]
    rewarded: list[tuple[int, list[int]]]
    blank: list[tuple[int, list[int]]]
    reached: list[tuple[int, int, int]]
    lost: list[tuple[int, int, int]]
    early: list[tuple[int, int, int, int]]
    settled: list[tuple[int, int, int, int]]
    delays: DelaysState


class Closed(NamedTuple):
    """Numbers of closed decisions, int64 (K,) each: all, those without a reward, and those with one other than 0."""

    decisions: Counts
    zeros: Counts
    conversions: Counts


class PendingDecisions:
    """Open decisions as counts. Times are Unix milliseconds.

    All counts are integers, so the fold is the same wherever it runs.
    """

    def __init__(self, window_ms: int, n_arms: int) -> None:
        self.n_arms = n_arms
        self.delays = Delays(window_ms, n_arms)
        self._buckets = Buckets(window_ms)
        self._exposed: dict[int, Counts] = {}
        self._rewarded: dict[int, Counts] = {}
        self._blank: dict[int, Counts] = {}
        self._earliest = _NEVER
        self._reached: dict[int, tuple[int, int]] = {}
        self._lost: dict[int, list[tuple[int, int]]] = {}
        self._early: Decisions = {}
        self._settled: Decisions = {}

    def __len__(self) -> int:
        """Number of open decisions without a reward."""
        exposed, rewarded = (
            sum(int(counts.sum()) for counts in list(by_bucket.values()))
            for by_bucket in (self._exposed, self._rewarded)
        )
        return max(exposed - rewarded, 0)

    def exposed(self, incarnation: int, first: int, arms: NDArray[np.uint16], times_ms: Counts) -> None:
        """Counts n logged decisions, numbered from `first` by their worker."""
        earliest = _delays.count_decisions(self._exposed, arms, times_ms, self._buckets.width_ms, self.n_arms)
        self._earliest = min(self._earliest, earliest)
        end = first + len(arms)
        _taken(self._early, incarnation, first, end)
        for bucket, arm in _taken(self._settled, incarnation, first, end):
            self._exposed[bucket][arm] -= 1
        reached = self._reached.get(incarnation, (0, 0))[0]
        if first >= ON_DEMAND:
            end = MAX_COUNTER
        elif first > reached:
            self._lost.setdefault(incarnation, []).append((reached, first))
        self._reached[incarnation] = (end, int(times_ms[-1]))

    def take_back(self, arms: NDArray[np.uint16], times_ms: Counts) -> None:
        """Removes decisions counted by `exposed` that are not to be learned from."""
        for bucket, arm in zip((times_ms // self._buckets.width_ms).tolist(), arms.tolist(), strict=True):
            self._exposed[bucket][arm] -= 1

    def rewarded(self, rows: NDArray[np.void], now_ms: int) -> None:
        """Counts rewards of the objective (`events.REWARD`) in the order of the log."""
        earliest, early = _delays.count_rewards(
            self._rewarded,
            self._blank,
            rows,
            now_ms,
            self._buckets.width_ms,
            self.delays.edges_ms,
            self.delays.arrivals,
            self._reached,
        )
        self._earliest = min(self._earliest, earliest)
        if self._lost:
            early += self._among_lost(rows)
        for i in early:
            row = rows[i]
            self._early.setdefault(int(row["incarnation"]), {})[int(row["counter"])] = (
                int(row["time_ms"]) // self._buckets.width_ms,
                int(row["arm"]),
            )

    def revised(self, rows: NDArray[np.void], now_ms: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Counts what `events.REVISION` rows (n,) say; returns the values before and after them, as they are learned.

        A value that is gone is learned as a zero until there is one again. NaN is a former value that never was.
        """
        first = rows["since_ms"] == FIRST
        self.rewarded(rewards_of(rows[first]), now_ms)
        self._changed(rows[~first], now_ms)
        formers = np.where(np.isnan(rows["former"]) & ~first, 0.0, rows["former"])
        return formers, np.nan_to_num(rows["value"], nan=0.0)

    def _changed(self, rows: NDArray[np.void], now_ms: int) -> None:
        """Notes which rewards of open decisions are 0 now, or are no more: `events.REVISION` rows of later changes.

        A reward that is gone stays a reward, of 0.
        """
        formers, values = (np.nan_to_num(rows[name], nan=0.0) == 0.0 for name in ("former", "value"))
        buckets = rows["time_ms"] // self._buckets.width_ms
        for bucket, arm, was_blank, is_blank in zip(
            buckets.tolist(), rows["arm"].tolist(), formers.tolist(), values.tolist(), strict=True
        ):
            if was_blank == is_blank or self._buckets.closes_ms(bucket) < now_ms:
                continue
            blank = self._blank.setdefault(bucket, np.zeros(self.n_arms, np.int64))
            blank[arm] += is_blank - was_blank

    def _among_lost(self, rows: NDArray[np.void]) -> list[int]:
        """Rows whose decisions are in a gap of the numbers that their worker has logged."""
        among: list[int] = []
        counters = rows["counter"]
        for incarnation in np.unique(rows["incarnation"]).tolist():
            for low, high in self._lost.get(incarnation, ()):
                inside = (counters >= low) & (counters < high) & (rows["incarnation"] == incarnation)
                among += np.flatnonzero(inside).tolist()
        return among

    def close(self, now_ms: int) -> Closed | None:
        """Closes decisions whose windows have ended, and returns their counts; None without any."""
        if self._buckets.closes_ms(self._earliest) >= now_ms:
            return None
        due = sorted(b for b in {*self._exposed, *self._rewarded} if self._buckets.closes_ms(b) < now_ms)
        decisions, rewarded, blank = np.zeros((3, self.n_arms), np.int64)
        for bucket in due:
            decisions += self._exposed.pop(bucket, 0)
            rewarded += self._rewarded.pop(bucket, 0)
            blank += self._blank.pop(bucket, 0)
        self.delays.closed += decisions
        zeros = decisions - rewarded
        for incarnation, early in list(self._early.items()):
            for counter, (bucket, arm) in list(early.items()):
                if self._buckets.closes_ms(bucket) < now_ms:
                    zeros[arm] += 1
                    self._settled.setdefault(incarnation, {})[counter] = early.pop(counter)
            if not early:
                del self._early[incarnation]
        self._earliest = min(min(self._exposed, default=_NEVER), min(self._rewarded, default=_NEVER))
        self._forget(now_ms)
        return Closed(decisions, np.maximum(zeros, 0), np.clip(rewarded - blank, 0, decisions))

    def _forget(self, now_ms: int) -> None:
        for incarnation, settled in list(self._settled.items()):
            for counter, (bucket, _) in list(settled.items()):
                if self._buckets.closes_ms(bucket) + LINGER_MS < now_ms:
                    del settled[counter]
            if not settled:
                del self._settled[incarnation]
        for incarnation, (_, last_ms) in list(self._reached.items()):
            if last_ms + 2 * self._buckets.window_ms + LINGER_MS < now_ms:
                del self._reached[incarnation]
                self._lost.pop(incarnation, None)

    def next_close_ms(self) -> int | None:
        """Time from which a tick closes a decision; None without open decisions."""
        return None if self._earliest == _NEVER else self._buckets.closes_ms(self._earliest) + 1

    def weights(self, now_ms: int) -> NDArray[np.float64]:
        """Expected numbers, float64 (K,), of open decisions that lack a reward and would have shown one by now.

        The expectation supposes that each decision gets a reward in the end.
        """
        reach, exposed, rewarded = _delays.reach(
            self._exposed, self._rewarded, now_ms, self._buckets.width_ms, self.delays.edges_ms, self.n_arms
        )
        shown = self.delays.shown(reach)
        weights: NDArray[np.float64] = np.clip(shown - rewarded, 0.0, np.maximum(exposed - rewarded, 0))
        return weights

    def grown(self, n_arms: int) -> PendingDecisions:
        """Same decisions with more arms, which have none."""
        window_ms, former = self._buckets.window_ms, self.state()
        padding = [0] * (n_arms - self.n_arms)
        exposed, rewarded, blank = (
            [(bucket, counts + padding) for bucket, counts in column]
            for column in (former.exposed, former.rewarded, former.blank)
        )
        delays = self.delays.grown(n_arms).state()
        state = structs.replace(former, exposed=exposed, rewarded=rewarded, blank=blank, delays=delays)
        return PendingDecisions.from_state(window_ms, n_arms, state)

    def state(self) -> PendingState:
        return PendingState(
            exposed=_by_bucket(self._exposed),
            rewarded=_by_bucket(self._rewarded),
            blank=_by_bucket(self._blank),
            reached=[(i, *self._reached[i]) for i in sorted(self._reached)],
            lost=[(i, *ends) for i in sorted(self._lost) for ends in self._lost[i]],
            early=_rows(self._early),
            settled=_rows(self._settled),
            delays=self.delays.state(),
        )

    @classmethod
    def from_state(cls, window_ms: int, n_arms: int, state: PendingState) -> PendingDecisions:
        """Decisions that had this state. Raises `ValueError` where its parts do not fit together."""
        pending = cls(window_ms, n_arms)
        pending._exposed, pending._rewarded, pending._blank = (
            {bucket: _counts(counts, n_arms) for bucket, counts in column}
            for column in (state.exposed, state.rewarded, state.blank)
        )
        pending._earliest = min((b for b, _ in (*state.exposed, *state.rewarded)), default=_NEVER)
        pending._reached = {i: (counter, last_ms) for i, counter, last_ms in state.reached}
        for i, low, high in state.lost:
            pending._lost.setdefault(i, []).append((low, high))
        for decisions, rows in ((pending._early, state.early), (pending._settled, state.settled)):
            for i, counter, bucket, arm in rows:
                if not 0 <= arm < n_arms:
                    raise ValueError(f"a decision for arm {arm} of {n_arms}")
                decisions.setdefault(i, {})[counter] = (bucket, arm)
        pending.delays = Delays.from_state(window_ms, n_arms, state.delays)
        return pending


def _by_bucket(counts: dict[int, Counts]) -> list[tuple[int, list[int]]]:
    return [(bucket, counts[bucket].tolist()) for bucket in sorted(counts)]


def _counts(counts: list[int], n_arms: int) -> Counts:
    if len(counts) != n_arms:
        raise ValueError(f"counts of {len(counts)} arms, not of {n_arms}")
    return np.array(counts, np.int64)


def _rows(decisions: Decisions) -> list[tuple[int, int, int, int]]:
    return [
        (i, counter, *decisions[i][counter]) for i in sorted(decisions) for counter in sorted(decisions[i])
    ]


def _taken(decisions: Decisions, incarnation: int, first: int, end: int) -> list[tuple[int, int]]:
    """Removes and returns a worker's remembered decisions with numbers from `first` to before `end`."""
    of_worker = decisions.get(incarnation)
    if of_worker is None:
        return []
    taken = [of_worker.pop(counter) for counter in sorted(of_worker) if first <= counter < end]
    if not of_worker:
        del decisions[incarnation]
    return taken
