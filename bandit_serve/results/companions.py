"""One metric with its companion, and the estimates that follow: adjusted by a covariate (CUPED), or a ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.metrics import METRIC_KINDS, Continuous
from bandit_serve.results import ratio
from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results._pairs import PairSums
from bandit_serve.results.estimates import Estimates, Sums
from bandit_serve.results.paired import Adjusted, MetricPair


class Paired:
    """Metric of the pair `index`, as things stand. `peers` int64 (K,) as in `Evidence`."""

    def __init__(
        self,
        sums: Accumulators,
        pairs: PairSums,
        index: int,
        experiment: Experiment,
        peers: NDArray[np.int64],
    ) -> None:
        metric = int(pairs.metrics[index])
        self.index = index
        self.metric: Metric = experiment.metrics[metric]
        self.pair = MetricPair.of(Sums.of(sums, metric), pairs, index)
        self._kind = METRIC_KINDS[self.metric.kind]
        self._control, self._peers = experiment.control_arm, peers
        self._tuned_for = experiment.stopping.tuned_for

    def lost(self, *, moving: bool) -> NDArray[np.bool_]:
        """True, bool (K,), for arms whose digits went with numbers that left the sums, as `Sums.lost` has it."""
        return self.pair.y.lost(self._kind, moving) | self.pair.z.lost(Continuous, moving)

    def adjusted(self, *, moving: bool) -> Adjusted:
        return Adjusted.of(self.pair, self._kind, self._control, self._peers, self._tuned_for, moving=moving)

    def estimates(self, *, moving: bool) -> Estimates:
        """Estimates from samples, or from scores where shares have moved (`moving`)."""
        if self.metric.is_ratio:
            return ratio.estimates(self.pair, self._control, self._peers, self._tuned_for, moving=moving)
        return self.adjusted(moving=moving).estimates
