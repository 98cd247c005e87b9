"""Sums of former builds, with those that were not kept yet."""

from __future__ import annotations

import numpy as np

from bandit_serve.results.room import State


def with_squares(state: State, control: int, contextual: bool) -> State:
    """State of a former build, with what it did not keep.

    All its decisions had scores, around 0, and weighed alike. Their squares are thought to be what the arms' variances
    and the shares say, their values not to be skewed.
    """
    n_metrics, n_arms = state["n"].shape
    weight = 0.5 / n_arms
    n, eligible, pairs = (state[name].astype(np.float64) for name in ("n", "eligible", "pair_eligible"))
    variance = state["m2"] / np.maximum(n - 1.0, 1.0)
    sample_mean = state["total"] / np.maximum(n, 1.0)
    mean = state["score"] / np.maximum(eligible, 1.0)
    difference = state["pair_score"] / np.maximum(pairs, 1.0)
    arm_part, control_part = weight**2 * state["pair_inverse"], weight**2 * state["pair_control_inverse"]
    spread = variance * arm_part + variance[:, [control]] * control_part
    nobody = np.full(n_metrics, 2**64 - 1, np.uint64)
    return state | {
        "shifted": state["total"],
        "origin": np.zeros(n_metrics),
        "first_who": nobody,
        "first_number": nobody,
        "cube": 3.0 * sample_mean * state["m2"] + n * sample_mean**3,
        "square": variance * state["inverse"] + eligible * mean**2,
        "pair_weight": weight * pairs,
        "pair_score": weight * state["pair_score"],
        "pair_control_score": weight * pairs * mean[:, [control]],
        "pair_weight_square": weight**2 * pairs,
        "pair_square_score": weight**2 * state["pair_score"],
        "pair_square": spread + weight**2 * pairs * difference**2,
        "pair_inverse": arm_part,
        "pair_control_inverse": control_part,
        "unsquared": state["analysed"],
        "plain_weight": np.array([weight]),
        "contextual": np.array([contextual]),
    }


def with_residuals(state: State) -> State:
    """State of a build that made no model of outcomes, with what it did not keep.

    Each arm and each difference counts as predicted by one number, from which values deviate as from their mean.
    """
    n, mean = np.maximum(state["n"], 1), state["shifted"] / np.maximum(state["n"], 1)
    predicted = state["score"] / np.maximum(state["eligible"], 1)
    squares = state["pair_weight_square"]
    difference = state["pair_square_score"] / np.where(squares > 0.0, squares, 1.0)
    return state | {
        "residual": state["m2"],
        "residual_cube": state["cube"] - 3.0 * mean * state["m2"] - n * mean**3,
        "predicted": state["eligible"] * predicted,
        "predicted_square": state["eligible"] * predicted**2,
        "pair_predicted": squares * difference,
        "pair_predicted_square": squares * difference**2,
        "modelled": np.zeros_like(state["moved"]),
    }


def with_dates(state: State) -> State:
    """State of a build that made all scores around the centres of the present, with what it did not keep."""
    by_arm, by_metric = np.zeros_like(state["residual"]), np.zeros_like(state["moved"])
    return (
        state
        | dict.fromkeys(("peak", "score_peak"), by_arm)
        | dict.fromkeys(("dated", "latest_ms", "next_epoch"), by_metric)
    )
