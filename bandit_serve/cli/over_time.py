"""Results over time in a terminal of 80 columns: shares and means as bars, and comparisons at some times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_serve.cli.output import print_table, say, short_time
from bandit_serve.results import MetricHistory, ResultsHistory, p_text

BARS = "▁▂▃▄▅▆▇█"
MAX_BARS = 24
MAX_ROWS = 8
NONE = "–"

Numbers = Sequence[float | None]


def print_over_time(history: ResultsHistory, objective: str, control: str) -> None:
    """Prints the shares and the `objective` of all arms over time, then how each arm compared with control."""
    if not history.at:
        say(f"{history.experiment} has decided nothing yet.")
        return
    say(f"{history.experiment} from {short_time(history.at[0])} to {short_time(history.at[-1])}.")
    means = {name: arm.metrics[objective].mean for name, arm in history.arms.items()}
    low, high = _range([mean for each in means.values() for mean in each])
    print_table(
        ("Arm", "Share", "", objective, "", "n"),
        [
            (
                name,
                bars(arm.share, 0.0, 1.0),
                f"{arm.share[-1]:.3f}",
                bars(means[name], low, high),
                _last(means[name]),
                str(arm.metrics[objective].n[-1]),
            )
            for name, arm in history.arms.items()
        ],
        numbers=("n",),
        whole=("Share", "", objective),
    )
    say(f"Bars of shares go from 0 to 1, those of means from {low:.4g} to {high:.4g}.")
    if history.regret_bound[-1] is not None:
        say(f"The regret so far is at most {history.regret_bound[-1]:.4g}.")
    rows = _chosen(len(history.at), MAX_ROWS)
    for name, arm in history.arms.items():
        if name != control:
            say(f"\n{name} to {control} on {objective}")
            print_table(
                ("When", "n", "Mean", "To control", "Interval", "p"),
                [_row(history.at[i], arm.metrics[objective], i) for i in rows],
                numbers=("n", "Mean", "To control", "p"),
                whole=("When", "Interval"),
            )


def bars(values: Numbers, low: float, high: float) -> str:
    """`values` as bars from `low` to `high`, at most `MAX_BARS`; a gap for what is not known."""
    return "".join(_bar(values[i], low, high) for i in _chosen(len(values), MAX_BARS))


def _bar(value: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    part = (value - low) / (high - low) if high > low else 0.5
    return BARS[min(max(int(part * len(BARS)), 0), len(BARS) - 1)]


def _chosen(count: int, most: int) -> list[int]:
    """Indexes of at most `most` of `count` items, evenly, with the first and the last."""
    places = np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)
    return [int(place) for place in np.unique(places)]


def _range(values: Numbers) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _last(values: Numbers) -> str:
    return NONE if values[-1] is None else f"{values[-1]:.4g}"


def _row(at: str, metric: MetricHistory, i: int) -> tuple[str, ...]:
    mean, difference, interval, p = (
        metric.mean[i],
        metric.difference[i],
        metric.difference_interval[i],
        metric.p_value[i],
    )
    return (
        short_time(at),
        str(metric.n[i]),
        NONE if mean is None else f"{mean:.4g}",
        NONE if difference is None else f"{difference:+.4g}",
        NONE if interval is None else f"[{interval[0]:+.3g}, {interval[1]:+.3g}]",
        NONE if p is None else p_text(p),
    )
