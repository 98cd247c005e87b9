"""Rows of an export: decisions with all their rewards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.export.layout import RecordLayout, Records
from bandit_serve.export.spool import Slice, SpooledBatch
from bandit_serve.log.events import MAX_COUNTER
from bandit_serve.results.sequence import Floats

_COUNTER_BITS = np.uint64(MAX_COUNTER.bit_length() - 1)


class ExportRows(NamedTuple):
    """Decisions, n, in order of their times.

    `decisions`: records of `RecordLayout.decision`. `shares` float64 (n, K) of K arms, 0 for arms that came later; all
    NaN where the exposure is lost. `values` float64 (M, n) and `rewarded_ms` int64 (M, n) by metric: NaN, and any time,
    without a reward.
    """

    decisions: Records
    shares: Floats
    values: Floats
    rewarded_ms: NDArray[np.int64]

    def those(self, chosen: NDArray[np.bool_] | slice) -> ExportRows:
        return ExportRows(
            self.decisions[chosen],
            self.shares[chosen],
            self.values[:, chosen],
            self.rewarded_ms[:, chosen],
        )

    @property
    def exposed(self) -> NDArray[np.bool_]:
        """Mask, bool (n,), of the decisions whose exposure is there."""
        return self.decisions["n_shares"] > 0


def joined(batch: SpooledBatch, layout: RecordLayout, n_metrics: int) -> ExportRows:
    """Joins decisions with their rewards; of several values of one decision on a metric, the last counts.

    A reward without its decision becomes a row, too. A decision that is there twice is one row.
    """
    decisions, shares = _decisions(batch.decisions, layout)
    rewards = _concatenated([part.records for part in batch.rewards], layout.reward)
    workers = distinct(np.concatenate([decisions["incarnation"], rewards["incarnation"]]))
    order, keys = _sorted(_keys(decisions, workers))
    again = keys[1:] == keys[:-1]
    if again.any():
        first = np.sort(order[np.concatenate([[True], ~again])])
        decisions, shares = decisions[first], shares[first]
        order, keys = _sorted(_keys(decisions, workers))
    own = _keys(rewards, workers)
    places = np.searchsorted(keys, own)
    exposed = places < len(keys)
    exposed[exposed] = keys[places[exposed]] == own[exposed]
    rows = np.empty(len(rewards), np.intp)
    rows[exposed] = order[places[exposed]]
    if not exposed.all():
        _, first, which = np.unique(own[~exposed], return_index=True, return_inverse=True)
        rows[~exposed] = len(decisions) + which
        orphans = layout.orphans(rewards[~exposed][first])
        decisions = np.concatenate([decisions, orphans])
        shares = np.concatenate([shares, np.full((len(orphans), shares.shape[1]), np.nan)])
    times = decisions["time_ms"]
    if (times[1:] < times[:-1]).any():
        in_time, at = np.argsort(times, kind="stable"), np.empty(len(times), np.intp)
        at[in_time] = np.arange(len(times))
        decisions, shares, rows = decisions[in_time], shares[in_time], at[rows]
    values = np.full((n_metrics, len(decisions)), np.nan)
    rewarded_ms = np.zeros((n_metrics, len(decisions)), np.int64)
    # Of an index that is there twice, NumPy assigns the last.
    values[rewards["metric"], rows] = rewards["value"]
    rewarded_ms[rewards["metric"], rows] = rewards["logged_ms"]
    return ExportRows(decisions, shares, values, rewarded_ms)


def distinct(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Distinct numbers of a column in which many neighbours are equal, in order."""
    if not len(numbers):
        return numbers
    return np.unique(numbers[np.concatenate([[True], numbers[1:] != numbers[:-1]])])


def _keys(records: Records, workers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One number for each decision: its worker's place among all, then its counter."""
    worker = np.searchsorted(workers, records["incarnation"]).astype(np.uint64)
    keys: NDArray[np.uint64] = (worker << _COUNTER_BITS) | records["counter"]
    return keys


def _sorted(keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.uint64]]:
    order = np.argsort(keys, kind="stable")
    return order, keys[order]


def _decisions(parts: list[Slice], layout: RecordLayout) -> tuple[Records, Floats]:
    """Decisions of all parts, and their shares (n, K)."""
    decisions = _concatenated([part.records for part in parts], layout.decision)
    n_arms = int(decisions["n_shares"].max()) if len(decisions) else 0
    shares = np.zeros((len(decisions), n_arms))
    at = 0
    for records, numbers in parts:
        for width in np.unique(records["n_shares"]).tolist():
            mine = np.flatnonzero(records["n_shares"] == width)
            places = records["shares_at"][mine][:, None] + np.arange(width)
            shares[at + mine, :width] = numbers[places]
        at += len(records)
    return decisions, shares


def _concatenated(parts: list[Records], dtype: np.dtype[np.void]) -> Records:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
