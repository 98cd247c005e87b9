"""Runs of failures: how many of each arm's newest predictions have failed, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results.columns import Rows

APART_MS = 4_000
"""Failures nearer to each other than this are one: an outage of a second fails whatever is under way. An arm that fails
is ejected for 5 s at first, so that each attempt after it counts."""

Counts = NDArray[np.int64]


@dataclass
class FailureRuns:
    """Predictions of each arm as they were logged, int64 (K,) each.

    n, failures: all of them, and those that failed. before: how many there were up to the newest sound one, with it.
    run: failures since, `APART_MS` from each other; last_ms: time of the last that counts, of the log.
    """

    n: Counts
    failures: Counts
    before: Counts
    run: Counts
    last_ms: Counts

    @classmethod
    def none(cls, n_arms: int) -> FailureRuns:
        return cls(*(np.zeros(n_arms, np.int64) for _ in range(5)))

    def grow(self, n_arms: int) -> None:
        """Makes room for arms that have come."""
        for name, column in vars(self).items():
            setattr(self, name, np.pad(column, (0, n_arms - len(column))))

    def take(self, rows: Rows, metric: int, time_ms: int) -> None:
        """Counts an entry's rewards on the metric `error`, 1 for a failure, in their order."""
        rows = rows[rows["metric"] == metric]
        for arm in np.unique(rows["arm"]):
            failed = rows["value"][rows["arm"] == arm] != 0.0
            sound = np.flatnonzero(~failed)
            if len(sound):
                self.before[arm] = self.n[arm] + sound[-1] + 1
                self.run[arm] = 0
            if failed[-1] and (self.run[arm] == 0 or time_ms >= self.last_ms[arm] + APART_MS):
                self.run[arm] += 1
                self.last_ms[arm] = time_ms
            self.n[arm] += len(failed)
            self.failures[arm] += np.count_nonzero(failed)
