"""Outcomes of predictions, and the rewards of served metrics that they become."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.spec import Experiment
from bandit_serve.log.events import HELD_OUT, REWARD, Columns, Exposed, pack_rewards

MAX_ENTRY_ROWS = 20_000
MAX_ENTRY_BYTES = 4 * 2**20


class ServedMetrics(NamedTuple):
    """Indices of the metrics that the service measures, among an experiment's; None for one that it does not have."""

    latency: int | None = None
    error: int | None = None

    @classmethod
    def of(cls, experiment: Experiment) -> ServedMetrics:
        """Served metrics of an experiment."""
        index = {metric.name: i for i, metric in enumerate(experiment.metrics) if metric.served}
        return cls(index.get("latency_ms"), index.get("error"))

    def __bool__(self) -> bool:
        return self.latency is not None or self.error is not None


class Outcome(NamedTuple):
    """Time from an arm's draw to its answer or failure, and whether it failed."""

    latency_ms: float
    failed: bool


class Outcomes:
    """Outcomes of some of the decisions of a batch, by their places in it."""

    def __init__(self) -> None:
        self._places = array("I")
        self._latencies_ms = array("d")
        self._failed = bytearray()

    def add(self, place: int, outcome: Outcome) -> None:
        """Adds the outcome of the decision at `place`, which is behind all that were added."""
        self._places.append(place)
        self._latencies_ms.append(outcome.latency_ms)
        self._failed.append(outcome.failed)

    def cut(self, n_rows: int) -> None:
        """Drops the outcomes of places from `n_rows` on."""
        while self._places and self._places[-1] >= n_rows:
            del self._places[-1]
        n = len(self._places)
        del self._latencies_ms[n:], self._failed[n:]

    def entries(self, exposed: Exposed, columns: Columns, metrics: ServedMetrics) -> tuple[bytes, ...]:
        """Values of entries of kind `r`, with the rewards of served `metrics` of these decisions, in order."""
        if not self._places or not metrics:
            return ()
        columns_of_metrics = ((metrics.latency, self._latencies_ms), (metrics.error, self._failed))
        values = [(metric, column) for metric, column in columns_of_metrics if metric is not None]
        places = np.frombuffer(self._places, np.uint32).astype(np.intp)
        arms = columns.arms[places]
        vectors = np.repeat(np.arange(len(columns.runs)), columns.runs)[places]
        one = np.zeros(len(places), REWARD)
        one["incarnation"], one["revision"] = exposed.incarnation, exposed.revision
        one["counter"] = np.uint64(exposed.first) + places.astype(np.uint64)
        one["time_ms"] = exposed.time_ms + columns.ages_ms[places].astype(np.int64)
        one["arm"], one["propensity"] = arms, columns.vectors[vectors, arms]
        if len(columns.units):
            one["unit"] = columns.units[places]
        held_out = exposed.held_out_rows()
        if held_out is not None:
            one["flags"] = np.where(held_out[places], HELD_OUT, 0)
        rows = np.repeat(one, len(values)).reshape(len(places), len(values))
        for i, (metric, column) in enumerate(values):
            rows["metric"][:, i], rows["value"][:, i] = metric, np.asarray(column)
        return _packed(rows.ravel(), exposed, np.repeat(places, len(values)))


def _packed(rows: NDArray[np.void], exposed: Exposed, places: NDArray[np.intp]) -> tuple[bytes, ...]:
    """Entries of `rows` (n,), each with the features of the decision at its place where there are any."""
    n_features = len(exposed.x) // (4 * (len(exposed.arms) // 2))
    x = np.frombuffer(exposed.x, np.float32).reshape(-1, n_features) if n_features else None
    n_rows = max(1, min(MAX_ENTRY_ROWS, MAX_ENTRY_BYTES // (REWARD.itemsize + 4 * n_features)))
    return tuple(
        rows[start : start + n_rows].tobytes()
        if x is None
        else pack_rewards(rows[start : start + n_rows], x[places[start : start + n_rows]])
        for start in range(0, len(rows), n_rows)
    )
