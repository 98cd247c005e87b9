"""Sums and evidence of each segment of an experiment's decisions, kept beside those of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.dimensions import Dimension
from bandit_serve.experiments.spec import Experiment
from bandit_serve.experiments.stopping import MIN_EXPECTED
from bandit_serve.metrics import KINDS
from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._segments import SegmentFollower
from bandit_serve.results.estimates import Estimates, Sums, fixed_split, moving_shares
from bandit_serve.results.evidence import GROWTH
from bandit_serve.results.sequence import Floats

StateColumns = Mapping[str, Mapping[str, NDArray[Any]]]


class SegmentedSums:
    """Sums by segment of each of `dimensions`. `follower` fills them, once it follows the sums of all.

    place: where in a note the dimensions begin. Segments are numbered through all dimensions; segment s of metric m has
    the row m S + s of `sums` and of the evidence, S segments in all. Scores are made around running means there,
    whatever the policy.

    Evidence are logarithms of the largest e-values so far against no difference, as in `Evidence`: `fixed` and `moving`
    float64 (rows, K), `next_look` int64 (rows,), `peers` int64 (K,). Its sequences are tuned for the level that is
    left to one comparison of its dimension, and for as many observations as a segment has where all are alike.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        of_all: Accumulators,
        place: int = 0,
    ) -> None:
        self.dimensions = tuple(dimensions)
        sizes = [len(each.segments) for each in self.dimensions]
        self._n_metrics, self._n_segments = of_all.n_metrics, sum(sizes)
        n_rows, n_arms = self._n_metrics * self._n_segments, of_all.n_arms
        sums = Accumulators(n_rows, n_arms, of_all.control, contextual=of_all.contextual)
        self.follower = SegmentFollower(sums, sizes, place)
        self.fixed, self.moving = np.zeros((2, n_rows, n_arms))
        self.next_look = np.ones(n_rows, np.int64)
        self.peers = np.full(n_arms, n_arms, np.int64)

    @property
    def sums(self) -> Accumulators:
        return self.follower.sums

    def rows(self, dimension: int, metric: int) -> NDArray[np.int64]:
        """Rows of a metric, int64 (S,), in the order of the dimension's segments."""
        first = sum(len(each.segments) for each in self.dimensions[:dimension])
        return metric * self._n_segments + first + np.arange(len(self.dimensions[dimension].segments))

    def grow(self, n_arms: int) -> None:
        """Makes room for the evidence of arms that have come, before the follower does for their sums."""
        added = n_arms - len(self.peers)
        looked = bool(self.sums.counts().any())
        self.peers = np.append(self.peers if looked else np.full(len(self.peers), n_arms), [n_arms] * added)
        self.fixed, self.moving = (np.pad(each, ((0, 0), (0, added))) for each in (self.fixed, self.moving))

    def estimates(
        self, sums: Sums, moving: bool, dimension: int, metric: int, experiment: Experiment
    ) -> tuple[Estimates, Floats]:
        """Estimates of segments of a dimension by one method, and their present log e-values, (K, S)."""
        kind, control = KINDS[experiment.metrics[metric].kind], experiment.control_arm
        named = sum(segment.kind == "value" for segment in self.dimensions[dimension].segments)
        tuned_for = max(experiment.stopping.tuned_for / named, float(MIN_EXPECTED))
        estimates = (
            moving_shares(sums, kind, control, self.peers, tuned_for)
            if moving
            else fixed_split(sums, kind, control, tuned_for)
        )
        alpha = level_of_one(self.dimensions[dimension], experiment.stopping.alpha, int(self.peers[control]))
        log_e = np.where(estimates.comparable, estimates.differences.log_e_value(alpha), 0.0)
        return estimates, np.maximum(log_e, 0.0)

    def look(self, experiment: Experiment) -> None:
        """Looks at the rows that have grown enough since the last look, of the metrics that are of a mean."""
        means = [metric.is_mean for metric in experiment.metrics]
        due = (self.sums.counts() >= self.next_look) & np.repeat(means, self._n_segments)
        if not due.any():
            return
        for dimension in range(len(self.dimensions)):
            for metric in range(self._n_metrics):
                rows = self.rows(dimension, metric)
                if due[rows].any():
                    self._look_at(rows[due[rows]], dimension, metric, experiment)

    def _look_at(self, rows: NDArray[np.int64], dimension: int, metric: int, experiment: Experiment) -> None:
        sums, kind = Sums.of_rows(self.sums, rows), KINDS[experiment.metrics[metric].kind]
        for moving, so_far in ((True, self.moving), (False, self.fixed)):
            fit = ~sums.lost(kind, moving).any(axis=0) & (moving | ~np.asarray(sums.moved))
            if fit.any():
                _, now = self.estimates(sums, moving, dimension, metric, experiment)
                so_far[rows] = np.maximum(so_far[rows], np.where(fit, now, 0.0).T)
        analysed = self.sums.counts()[rows]
        self.next_look[rows] = analysed + np.maximum(1, (analysed * GROWTH).astype(np.int64))

    def state(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Parts of a state, by name."""
        return {
            "segments": {name: getattr(self, name) for name in ("fixed", "moving", "next_look", "peers")},
            "segment_sums": self.sums.state(),
            "segment_epochs": self.sums.epochs_state(),
        }

    def restore(self, state: StateColumns) -> None:
        """Takes over what `state()` gave; raises ValueError for anything else."""
        evidence, sums = state["segments"], state["segment_sums"]
        for part, known in ((evidence, self.state()["segments"]), (sums, self.sums.state())):
            if part.keys() != known.keys():
                raise ValueError("the snapshot has other columns of segments than this build")
            for name, column in part.items():
                if (column.shape, column.dtype) != (known[name].shape, known[name].dtype):
                    raise ValueError(f"the snapshot's {name} is not that of its segments")
        restored = Accumulators.from_state(dict(sums), self.sums.control)
        restored.restore_epochs(dict(state["segment_epochs"]))
        self.follower.sums = restored
        for name, column in evidence.items():
            setattr(self, name, column.copy())


def level_of_one(dimension: Dimension, alpha: float, n_arms: int) -> float:
    """Level of one comparison: those of all segments and arms miss together with probability `alpha` at most."""
    return max(alpha / (len(dimension.segments) * max(n_arms - 1, 1)), math.ulp(0.0))
