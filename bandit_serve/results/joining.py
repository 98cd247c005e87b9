"""Room in a state of results for metrics that have joined."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results._accumulators import Accumulators
from bandit_serve.results.room import State
from bandit_serve.results.state import StateColumns

OF_ALL = ("plain_weight", "contextual", "peers", "ratio_fixed", "ratio_moving")
"""Columns that are not by metric, in parts whose other columns are."""
FOR_GOOD = 255
BY_METRIC = (
    "sums",
    "evidence",
    "epochs",
    "beginnings",
    "raw",
    "quantiles",
    "harm",
    "segments",
    "segment_sums",
    "segment_epochs",
)
"""Parts of columns by metric, or by metric and segment."""


def with_metrics(columns: StateColumns, fresh: StateColumns, n_features: int) -> StateColumns:
    """Columns of a state with room for the metrics that `fresh`, columns without data, has behind those of `columns`.

    What has been analysed stays as it is; nothing has been on the new ones. A model of outcomes, of `n_features`, that
    would be too large for more metrics is given up.
    """
    widened = {part: dict(state) for part, state in columns.items()}
    for part in BY_METRIC:
        if part in fresh:
            widened[part] = _behind(fresh[part], columns.get(part, {}), part)
    widened["outcome"] = _model(columns["outcome"], fresh["sums"], n_features)
    decisions = widened["decisions"]
    if "values" in decisions:
        _widen_units(decisions, fresh["decisions"])
    elif "held_values" in decisions:
        missing = fresh["decisions"]["held_values"].shape[1] - decisions["held_values"].shape[1]
        decisions["held_values"] = np.pad(decisions["held_values"], ((0, 0), (0, missing)))
        if not widened["outcome"]["learned"].size:
            decisions["x"] = np.zeros((0, 0), np.float32)
            for name in ("block_has_x", "held_has_x"):
                decisions[name] = np.zeros_like(decisions[name])
    return widened


def _behind(fresh: State, former: State, part: str) -> State:
    """Columns by metric: the former ones, and behind them what `fresh` has for those that are new."""
    widened = dict(fresh)
    for name, column in former.items():
        if name in OF_ALL or name in ("keys", "values") or (part == "quantiles" and name == "counts"):
            widened[name] = column
        else:
            room = (fresh[name].shape[0], *column.shape[1:])
            wide: NDArray[Any] = np.zeros(room, column.dtype)
            if fresh[name].shape == room:
                wide[:] = fresh[name]
            wide[: len(column)] = column
            widened[name] = wide
    return widened


def _model(former: State, fresh: State, n_features: int) -> State:
    """Model of outcomes with room for more metrics; an empty one where there is none, or no room."""
    n_metrics, n_arms = fresh["n"].shape
    wider = Accumulators(n_metrics, n_arms, 0)
    wider.know_features(n_features)
    columns = wider.model_state()
    if wider.n_features:
        for name, column in former.items():
            columns[name][: len(column)] = column
    return columns


def _widen_units(decisions: State, fresh: State) -> None:
    added = fresh["values"].shape[1] - decisions["values"].shape[1]
    decisions["takes_max"] = fresh["takes_max"]
    decisions["values"] = np.pad(decisions["values"], ((0, 0), (0, added)))
    decisions["rests"] = np.pad(decisions["rests"], ((0, 0), (0, added), (0, 0)))
    decisions["present"] = np.pad(decisions["present"], ((0, 0), (0, added)))
    if len(decisions["present"]):
        # Units whose shares are not kept any more never leave.
        decisions["present"][decisions["vector"] < 0] = FOR_GOOD
