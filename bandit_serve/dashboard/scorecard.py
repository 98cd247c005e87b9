"""Scorecard of a metric: what its table has beside the numbers, and with how many decimals these are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup
from msgspec import UNSET

from bandit_serve.dashboard.numbers import decimals_of
from bandit_serve.experiments.metric import Metric
from bandit_serve.pictures.intervals import Row
from bandit_serve.pictures.meter import meter
from bandit_serve.pictures.shown import Shown
from bandit_serve.pictures.strip import strip_axis, strips
from bandit_serve.results import GuardrailResult, MetricResult


class Scorecard(NamedTuple):
    """Pictures for each arm, the axis of `strips`, and decimals; `without` says why a metric has no interval."""

    metric: Metric
    strips: Sequence[Markup]
    axis: Markup
    chances: Sequence[Markup]
    of_means: int | None
    of_differences: int | None
    of_losses: int | None
    has_guard: bool
    corrected: bool
    without: str


def scorecard(shown: Shown, metric: Metric) -> Scorecard:
    arms = [(k, arm.name, arm.metrics[metric.name]) for k, arm in enumerate(shown.report.arms)]
    results = [of for _, _, of in arms]
    rows = [
        Row(name, k, of.difference, of.difference_interval, _margin(metric, of))
        if name != shown.control
        else Row(name, k, None, None)
        for k, name, of in arms
    ]
    compared = any(row.value is not None for row in rows)
    ends = [end for of in results for end in of.interval or ()]
    apart = [end for of in results for end in (of.difference, *(of.difference_interval or ()))]
    return Scorecard(
        metric,
        [Markup(svg) for svg in strips(rows)] if compared else [],
        Markup(strip_axis(rows)) if compared else Markup(""),
        [Markup(meter(of.probability_best, k)) for k, _, of in arms],
        decimals_of([*(of.mean for of in results), *ends]),
        decimals_of(apart),
        decimals_of([of.expected_loss for of in results], 3),
        any(isinstance(of.guardrail, GuardrailResult) for of in results),
        any(of.p_value_corrected is not UNSET for of in results),
        _without_intervals(shown, metric, results),
    )


def _margin(metric: Metric, of: MetricResult) -> float | None:
    """Difference at which a guardrail's margin ends, on the side of harm."""
    guard = of.guardrail
    if not isinstance(guard, GuardrailResult) or guard.margin is None:
        return None
    return -guard.margin if metric.goal == "maximize" else guard.margin


def _without_intervals(shown: Shown, metric: Metric, results: Sequence[MetricResult]) -> str:
    """Sentence where there is something to have intervals of, and some are not there."""
    if not any(of.n for of in results):
        return f"No interval of {metric.name}: nothing of it is analysed yet."
    means = [of for of in results if of.mean is not None and of.interval is None]
    others = [
        of
        for arm, of in zip(shown.report.arms, results, strict=True)
        if arm.name != shown.control and of.mean is not None and of.difference_interval is None
    ]
    if not means and not others:
        return ""
    what = " and ".join(filter(None, ["of a mean" if means else "", "of a difference" if others else ""]))
    return f"No interval {what} where there is none that holds; the sentences on top say why."
