"""Decisions that are evaluated: one a request, or one a unit, each with its value on a metric."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bandit_serve.evaluation.decision_folds import decision_keys
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.rows import ExportRows
from bandit_serve.results.sequence import Floats


class LoggedDecisions(NamedTuple):
    """Decisions, n, as columns.

    `time_ms` int64 (n,). `arms` intp (n,). `propensity` float64 (n,), with which each arm was chosen. `shares` float64
    (n, K), what it was drawn from; all NaN where the exposure is lost. `value` float64 (n,) on the metric. `x` float32
    (n, d), d = 0 without context. `held_out` bool (n,). `revision` int64 (n,) of the experiment. `withheld` bool (n,
    K): arms that had no chance and could have been chosen; of a collector all that were there, of which `Withholding`
    leaves those that were withheld. `key` uint64 (n,) is what a decision's fold follows from (`decision_keys`).
    """

    time_ms: NDArray[np.int64]
    arms: NDArray[np.intp]
    propensity: Floats
    shares: Floats
    value: Floats
    x: NDArray[np.float32]
    held_out: NDArray[np.bool_]
    revision: NDArray[np.int64]
    withheld: NDArray[np.bool_]
    key: NDArray[np.uint64]

    def those(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> LoggedDecisions:
        return LoggedDecisions._make(column[chosen] for column in self)

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """Mask, bool (n, K), of the arms that had a chance; of all where that is not known."""
        mask: NDArray[np.bool_] = (self.shares > 0.0) | np.isnan(self.shares)
        return mask


class DecisionSink(Protocol):
    """Receiver of the rows of an export, in the order of time."""

    def add(self, rows: ExportRows, closed: NDArray[np.bool_]) -> None:
        """Adds n rows, of which those are `closed`, bool (n,), whose windows are."""
        ...


class DecisionCollector:
    """Collects the rows of an export into the decisions that results analyse on one metric.

    With `missing: ignore` those are the ones with a reward, and with `zero` those whose window has closed. With `unit:
    user` a unit is one decision: its first, with the maximum (binary) or the sum of its values.

    newest: the most rows that are kept, the last ones; None: all. A unit's first decision is then the first of those.
    """

    def __init__(self, experiment: Experiment, metric: str, newest: int | None = None) -> None:
        self._newest = newest
        self._n_kept = 0
        names = [each.name for each in experiment.metrics]
        self._place = names.index(metric)
        self._by_unit = experiment.unit == "user"
        self._by_max = experiment.metrics[self._place].kind == "binary"
        self._zero = experiment.missing == "zero"
        self._n_arms = len(experiment.arms)
        self._parts: list[LoggedDecisions] = []
        self._units: list[NDArray[np.uint64]] = []
        self._closed: list[NDArray[np.bool_]] = []

    def add(self, rows: ExportRows, closed: NDArray[np.bool_]) -> None:
        """Adds n rows, of which those are `closed`, bool (n,), whose windows are."""
        if not self._by_unit:
            counted = closed if self._zero else ~np.isnan(rows.values[self._place])
            rows, closed = rows.those(counted), closed[counted]
        decisions, value = rows.decisions, rows.values[self._place]
        has_x = "x" in (decisions.dtype.names or ())
        shares = rows.shares
        if shares.shape[1] < self._n_arms:
            # Arms that came later had no chance.
            wider = np.zeros((len(shares), self._n_arms))
            wider[:, : shares.shape[1]] = shares
            shares = wider
        shares[~rows.exposed] = np.nan
        there = np.arange(self._n_arms) < decisions["n_shares"][:, None]
        part = LoggedDecisions(
            time_ms=decisions["time_ms"].copy(),
            arms=decisions["arm"].astype(np.intp),
            propensity=decisions["propensity"].copy(),
            shares=shares,
            value=value if self._by_unit or not self._zero else np.nan_to_num(value),
            x=decisions["x"].copy() if has_x else np.zeros((len(decisions), 0), np.float32),
            held_out=decisions["held_out"].copy(),
            revision=decisions["revision"].astype(np.int64),
            withheld=there & (shares == 0.0),
            key=decision_keys(decisions["incarnation"], decisions["counter"]),
        )
        self._parts.append(part)
        self._units.append(decisions["unit"].copy())
        self._closed.append(closed)
        self._n_kept += len(closed)
        if self._newest is not None:
            self._forget(self._n_kept - self._newest)

    def _forget(self, n: int) -> None:
        """Drops the first n rows."""
        while n > 0:
            first = min(n, len(self._closed[0]))
            if first == len(self._closed[0]):
                del self._parts[0], self._units[0], self._closed[0]
            else:
                # Copies, as a view would keep what was dropped.
                self._parts[0] = LoggedDecisions._make(column[first:].copy() for column in self._parts[0])
                self._units[0], self._closed[0] = (
                    self._units[0][first:].copy(),
                    self._closed[0][first:].copy(),
                )
            self._n_kept -= first
            n -= first

    def collected(self) -> LoggedDecisions:
        """Decisions in the order of time, without any for a log without any."""
        if not self._parts:
            nothing = np.zeros(0)
            return LoggedDecisions(
                np.zeros(0, np.int64),
                np.zeros(0, np.intp),
                nothing,
                np.zeros((0, self._n_arms)),
                nothing,
                np.zeros((0, 0), np.float32),
                np.zeros(0, np.bool_),
                np.zeros(0, np.int64),
                np.zeros((0, self._n_arms), np.bool_),
                np.zeros(0, np.uint64),
            )
        every = LoggedDecisions._make(np.concatenate(columns) for columns in zip(*self._parts, strict=True))
        if not self._by_unit:
            return every
        _, first, unit = np.unique(np.concatenate(self._units), return_index=True, return_inverse=True)
        there = ~np.isnan(every.value)
        n_values = np.bincount(unit[there], minlength=len(first))
        if self._by_max:
            value = np.full(len(first), -np.inf)
            np.maximum.at(value, unit[there], every.value[there])
        else:
            value = np.bincount(unit[there], every.value[there], minlength=len(first))
        value = np.where(n_values > 0, value, 0.0)
        counted = np.concatenate(self._closed)[first] if self._zero else n_values > 0
        units = every.those(first)._replace(value=value).those(counted)
        return units.those(np.argsort(units.time_ms, kind="stable"))
