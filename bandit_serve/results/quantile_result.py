"""Results on a quantile of a metric, arm by arm."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bandit_serve.experiments.spec import Record
from bandit_serve.results.finite import finite
from bandit_serve.results.metric_result import Brief, Interval, MetricResult, MetricTable
from bandit_serve.results.quantiles import Quantiles
from bandit_serve.results.sequence import Floats

if TYPE_CHECKING:
    from bandit_serve.results.fold import ResultsFold, StillOpen


class QuantileTable(MetricTable):
    """Results on one metric that is of a quantile, arrays (K,): `mean` and differences are the quantile's.

    Under a contextual policy there are none: it shows the arms to requests of different kinds. Once shares have moved,
    arms are not compared: what they got is of different times.
    """

    def __init__(self, fold: ResultsFold, record: Record, index: int) -> None:
        experiment = record.experiment
        metric, histograms = experiment.metrics[index], fold.sums.histograms
        assert metric.quantile is not UNSET
        assert histograms is not None
        self.quantiles = Quantiles.of(
            histograms,
            index,
            metric.quantile,
            experiment.control_arm,
            experiment.stopping.alpha,
            experiment.stopping.tuned_for,
        )
        self.told = not fold.sums.contextual
        self._compares = self.told and fold.contests is None
        super().__init__(fold, record, index)

    @cached_property
    def aids(self) -> tuple[Floats, Floats]:
        nothing = np.full(len(self.there), np.nan)
        return nothing, nothing

    def _directed(self) -> tuple[Floats, Floats]:
        return self.quantiles.directed()

    def _comparable(self) -> NDArray[np.bool_]:
        return self.quantiles.comparable() & (self._compares and not self.sums.moved)

    def standing(self) -> NDArray[np.bool_]:
        above, below = self.evidence
        p = self._p_values(np.where(self.quantiles.differences > 0, above, below))
        with np.errstate(invalid="ignore"):
            leaves_out: NDArray[np.bool_] = self.quantiles.log_e_values() >= self.quantiles.threshold
            return leaves_out & (p <= self.alpha)

    @cached_property
    def has_interval(self) -> NDArray[np.bool_]:
        return np.array([self._mean_interval(arm) is not None for arm in range(len(self.there))])

    def proviso(self) -> str | None:
        if self.told and self.sums.moved:
            return (
                f"a quantile of {self.metric.name} is of what the arm got, whenever: "
                "as the shares have moved, arms are not compared by it"
            )
        if self.told:
            return None
        return f"no quantile of {self.metric.name}: a contextual policy shows the arms to requests of different kinds"

    def brief(self, arm: int) -> Brief:
        quantiles, compared = self.quantiles, bool(self._comparable()[arm])
        value, base = float(quantiles.values[arm]), float(quantiles.values[self.control])
        return (
            super()
            .brief(arm)
            ._replace(
                mean=value if self.told and quantiles.n[arm] else None,
                difference=value - base if compared else None,
                difference_interval=quantiles.difference_interval(arm) if compared else None,
            )
        )

    def row(self, arm: int, still_open: StillOpen | None) -> MetricResult:
        quantiles, compared = self.quantiles, bool(self._comparable()[arm])
        value, base = float(quantiles.values[arm]), float(quantiles.values[self.control])
        liftable = compared and base > 0.0 and value >= 0.0
        return msgspec.structs.replace(
            super().row(arm, still_open),
            lift=finite((value - base) / base) if liftable else None,
            lift_interval=quantiles.lift_interval(arm) if liftable else None,
            preview=None,
        )

    def _mean_interval(self, arm: int) -> Interval | None:
        return self.quantiles.interval(arm) if self.told else None
