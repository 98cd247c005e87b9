"""The largest e-values so far: what makes a p-value hold at every time, not only at the last.

The fold looks after an entry that brought a metric's analysed count up by `GROWTH`. Looking at some times
only is valid, as the largest over some is at most the largest over all; a report adds the present.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_serve._analysis import Accumulators
from bandit_serve.experiment import Experiment
from bandit_serve.results import sample_ratio
from bandit_serve.results.estimates import Sums, fixed_split, moving_shares
from bandit_serve.results.sequence import Floats

GROWTH = 0.01


@dataclass
class Evidence:
    """Logarithms of the largest e-values, 0 or more: `fixed` and `moving` f8[M, K] against no difference from
    control by either method, `ratio_fixed` and `ratio_moving` f8[1] against the logged shares of the
    objective.

    `fixed` and `ratio_fixed` stay where they are once the shares have moved. `next_look` i8[M] in analysed.
    `peers` i8[K]: among how many arms each arm came, itself included. That tunes its sequences for good: tuned anew
    with each arm that comes, the largest over time would be that of several sequences.
    """

    fixed: Floats
    moving: Floats
    ratio_fixed: Floats
    ratio_moving: Floats
    next_look: NDArray[np.int64]
    peers: NDArray[np.int64]

    @classmethod
    def none(cls, n_metrics: int, n_arms: int) -> Evidence:
        by_arm = (n_metrics, n_arms)
        one = np.ones(n_metrics, np.int64)
        peers = np.full(n_arms, n_arms, np.int64)
        return cls(np.zeros(by_arm), np.zeros(by_arm), np.zeros(1), np.zeros(1), one, peers)

    def grow(self, n_arms: int, looked: bool) -> None:
        """Makes room for arms that have come; `looked` says whether anything has been analysed before."""
        added = n_arms - len(self.peers)
        self.fixed = np.pad(self.fixed, ((0, 0), (0, added)))
        self.moving = np.pad(self.moving, ((0, 0), (0, added)))
        of_new = np.full(added, n_arms, np.int64)
        self.peers = np.concatenate([self.peers, of_new]) if looked else np.full(n_arms, n_arms, np.int64)

    def copy(self) -> Evidence:
        return Evidence(**{name: column.copy() for name, column in vars(self).items()})

    def look(self, sums: Accumulators, experiment: Experiment) -> None:
        """Looks at the metrics that have grown enough since the last look."""
        for metric in np.flatnonzero(sums.counts() >= self.next_look):
            self.look_at(int(metric), Sums.of(sums, int(metric)), experiment)

    def look_at(self, metric: int, sums: Sums, experiment: Experiment) -> None:
        kind, control = experiment.metrics[metric].kind, experiment.control_arm
        alpha = experiment.stopping.alpha
        found = [(self.moving, moving_shares(sums, kind, control, self.peers))]
        if not sums.moved:
            found.append((self.fixed, fixed_split(sums, kind, control)))
        for largest, estimates in found:
            log_e = np.where(estimates.comparable, estimates.differences.log_e_value(alpha), 0.0)
            largest[metric] = np.maximum(largest[metric], log_e)
        if experiment.metrics[metric] is experiment.objective and sample_ratio.sufficient(
            sums.n, sums.balance
        ):
            self._look_at_ratio(sums)
        self.next_look[metric] = sums.analysed + max(1, int(sums.analysed * GROWTH))

    def _look_at_ratio(self, sums: Sums) -> None:
        if not sums.moved:
            log_e = sample_ratio.log_e_constant(sums.n, sums.split)
            self.ratio_fixed[0] = max(self.ratio_fixed[0], log_e)
        log_e = sample_ratio.log_e_moving(sums.balance, sums.spread, self.peers)
        self.ratio_moving[0] = max(self.ratio_moving[0], log_e)
