"""The columns of a log entry, checked: the kernel's loops trust what passes here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit_serve._analysis import MAX_COUNTER
from bandit_serve.errors import InvalidInput
from bandit_serve.events import REWARD, Exposed
from bandit_serve.results.sequence import Floats

Rows = NDArray[np.void]

MAX_TIME_MS = 2**53


@dataclass(frozen=True)
class Exposures:
    """`arms` u2[n], `ages_ms` u4[n], `units` u8[n] or u8[0], `vectors` f8[V, K], `runs` u4[V] with sum n.

    Arms that came after the decisions have no share in `vectors`.
    """

    arms: NDArray[np.uint16]
    ages_ms: NDArray[np.uint32]
    units: NDArray[np.uint64]
    vectors: Floats
    runs: NDArray[np.uint32]


def exposures(event: Exposed, n_arms: int, by_unit: bool) -> Exposures:
    """The columns of `event`; `InvalidInput` when they do not fit together or the experiment."""
    item_sizes = {"arms": 2, "ages_ms": 4, "units": 8, "vectors": 8, "runs": 4}
    for name, size in item_sizes.items():
        _require(len(getattr(event, name)) % size == 0, f"whole items in {name}")
    columns = Exposures(
        np.frombuffer(event.arms, "<u2"),
        np.frombuffer(event.ages_ms, "<u4"),
        np.frombuffer(event.units, "<u8"),
        _vectors(np.frombuffer(event.vectors, "<f8"), len(event.runs) // 4, n_arms),
        np.frombuffer(event.runs, "<u4"),
    )
    n = len(columns.arms)
    _require(0 <= event.incarnation < 2**64, "an incarnation of 64 bits")
    _require(0 <= event.first <= MAX_COUNTER - n, "counters of at most 42 bits")
    _require(abs(event.time_ms) < MAX_TIME_MS, "a time in milliseconds")
    _require(len(columns.ages_ms) == n, "as many ages as arms")
    _require(len(columns.units) == n or not (by_unit or len(columns.units)), "as many units as arms")
    _require(int(columns.runs.sum(dtype=np.uint64)) == n, "runs that add up to the decisions")
    if n == 0:
        return columns
    _require(int(columns.arms.max()) < n_arms, "arms of the experiment")
    _require(bool((columns.vectors >= 0).all() and (columns.vectors <= 1).all()), "shares from 0 to 1")
    of_row = np.repeat(np.arange(len(columns.runs)), columns.runs)
    _require(
        bool((columns.vectors[of_row, columns.arms] > 0).all()), "a positive share of each arm that was drawn"
    )
    return columns


def _vectors(numbers: Floats, n_runs: int, n_arms: int) -> Floats:
    """f8[V, K] of a vector for each run, which may be of a time when there were fewer arms."""
    n_then = len(numbers) // max(n_runs, 1)
    _require(len(numbers) == n_runs * n_then and n_then <= n_arms, "as many share vectors as runs")
    return np.pad(numbers.reshape(n_runs, n_then), ((0, 0), (0, n_arms - n_then)))


def rewards(rows: Rows, n_arms: int, n_metrics: int) -> Rows:
    """`rows` as the kernel reads them; `InvalidInput` when one does not fit the experiment."""
    _require(rows.dtype == REWARD and rows.ndim == 1, "rewards in a row of REWARD records")
    if len(rows) == 0:
        return rows
    _require(int(rows["arm"].max()) < n_arms, "arms of the experiment")
    _require(int(rows["metric"].max()) < n_metrics, "metrics of the experiment")
    _require(int(rows["counter"].max()) < MAX_COUNTER, "counters of at most 42 bits")
    _require(
        bool((rows["propensity"] > 0).all() and (rows["propensity"] <= 1).all()),
        "propensities above 0, at most 1",
    )
    _require(bool(np.isfinite(rows["value"]).all()), "finite values")
    _require(bool((np.abs(rows["time_ms"]) < MAX_TIME_MS).all()), "times in milliseconds")
    return np.ascontiguousarray(rows)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvalidInput(f"The log holds an entry that can not be analysed: expected {what}.")
