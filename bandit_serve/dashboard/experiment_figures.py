"""Figures of an experiment's page, and its tables as rows: what can be copied one by one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bandit_serve.experiments.metric import Metric
from bandit_serve.pictures.allocation import GroupOfDecisions, allocation
from bandit_serve.pictures.courses import Courses, marks_of
from bandit_serve.pictures.densities import MeanOfArm, densities
from bandit_serve.pictures.figure import Cell, Figure
from bandit_serve.pictures.intervals import Row, intervals
from bandit_serve.pictures.shown import Shown
from bandit_serve.results import SegmentReport

MAX_METRICS = 5
"""Metrics beside the objective that are drawn over time."""
MAX_FEATURES = 8
"""Features whose effects are drawn: those by which arms differ most."""
MAX_ARMS = 5
"""Arms whose effects are drawn: those with most traffic."""


class FeatureEffects(NamedTuple):
    """Names of d features, and `ContextualPolicy.effects` of the K arms, float64 (K, d), in log odds or rewards."""

    names: Sequence[str]
    effects: NDArray[np.float64]
    in_log_odds: bool


class ExperimentFigures(NamedTuple):
    """Figures by where they stand: over time, of the other metrics over time, what is believed, who got which arm, by
    which features.
    """

    course: Sequence[Figure]
    others: Sequence[Figure]
    beliefs: Sequence[Figure]
    allocations: Sequence[Figure]
    effects: Sequence[Figure] = ()

    def named(self, name: str) -> Figure | None:
        return next((figure for group in self for figure in group if figure.name == name), None)


class CopiedTable(NamedTuple):
    """Table of a page without its looks."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def figures_of(shown: Shown, effects: FeatureEffects | None = None) -> ExperimentFigures:
    courses = Courses(shown, marks_of(shown, labelled=True))
    course: list[Figure] = []
    others: list[Figure] = []
    objective = shown.metrics[0]
    if courses.are_known:
        course = [courses.shares(), *courses.of_metric(objective, 0), *courses.rates(objective)]
        for place, metric in enumerate(shown.metrics[1 : 1 + MAX_METRICS], 1):
            others += courses.of_metric(metric, place)
    course, others = ([figure for figure in group if figure.says_something] for group in (course, others))
    beliefs = [_belief(shown, metric, place) for place, metric in enumerate(shown.metrics[: 1 + MAX_METRICS])]
    return ExperimentFigures(
        course,
        others,
        [figure for figure in beliefs if figure is not None],
        _allocations(shown),
        [] if effects is None else _effects(shown, effects),
    )


def scorecard_of(shown: Shown, metric: Metric) -> CopiedTable:
    """Results on a metric, a row for each arm."""
    rows: list[list[Cell]] = []
    for arm in shown.report.arms:
        of = arm.metrics[metric.name]
        rows.append(
            [
                arm.name,
                arm.share,
                arm.exposures,
                of.n,
                of.mean,
                *(of.interval or (None, None)),
                of.difference,
                *(of.difference_interval or (None, None)),
                of.lift,
                *(of.lift_interval or (None, None)),
                of.p_value,
                None if of.p_value_corrected is UNSET else of.p_value_corrected,
                of.probability_best,
                of.expected_loss,
            ]
        )
    return CopiedTable(SCORECARD, rows)


SCORECARD = (
    "arm", "share", "exposures", "n", "mean", "low", "high", "difference", "difference_low", "difference_high",
    "lift", "lift_low", "lift_high", "p_value", "p_value_corrected", "probability_best", "expected_loss",
)  # fmt: skip


def _belief(shown: Shown, metric: Metric, place: int) -> Figure | None:
    """What the observations say of a metric's means; None where no mean has an error."""
    if not metric.is_mean:
        return None
    means = []
    for k, arm in enumerate(shown.report.arms):
        of = arm.metrics[metric.name]
        if of.mean is None or not of.std or of.n < 2:
            continue
        ones = of.mean * of.n
        counts = (ones, of.n - ones) if metric.traits.two_valued else None
        means.append(MeanOfArm(arm.name, k, of.mean, of.std / math.sqrt(of.n), counts, of.interval))
    if not means:
        return None
    title = f"Mean of {metric.name}, by what was observed"
    rows: list[list[Cell]] = [
        [each.name, each.mean, each.error, *(each.interval or (None, None))] for each in means
    ]
    head = ("arm", "mean", "standard error", "low", "high")
    return Figure(f"belief-{place}", title, densities(means, title), head, rows)


def _allocations(shown: Shown) -> list[Figure]:
    """Figures of who got which arm, by each dimension: that by which arms differ most is the first."""
    drawn = []
    for place, segments in enumerate(shown.segments):
        groups = _groups(shown, segments)
        title = f"Who got which arm, by {segments.field}"
        svg = allocation(groups, shown.experiment.arm_names, title)
        rows: list[list[Cell]] = [[group.name, *group.counts] for group in groups]
        head = (segments.field, *shown.experiment.arm_names)
        drawn.append((_apart(groups), Figure(f"allocation-{place}", title, svg, head, rows)))
    return [figure for _, figure in sorted(drawn, key=lambda each: -each[0])]


def _effects(shown: Shown, known: FeatureEffects) -> list[Figure]:
    """Figure of the features by which the arms with most traffic differ most; none where they do not differ."""
    by_share = sorted(range(len(shown.report.arms)), key=lambda k: -shown.report.arms[k].share)
    arms = sorted(by_share[:MAX_ARMS])
    effects = known.effects[arms]
    apart = np.ptp(effects, axis=0)
    # The intercept moves nothing: it is the same in every context.
    apart[0] = 0.0
    features = [j for j in np.argsort(-apart, kind="stable")[:MAX_FEATURES].tolist() if apart[j] > 0.0]
    if not features:
        return []
    names = [shown.report.arms[k].name for k in arms]
    title = f"How features move each arm's {'log odds' if known.in_log_odds else 'reward'}"
    drawn = [
        Row(f"{known.names[j]}, {name}", k, value, (min(value, 0.0), max(value, 0.0)), label=name)
        if place
        else Row(known.names[j], k, value, (min(value, 0.0), max(value, 0.0)))
        for j in features
        for place, (k, name, value) in enumerate(zip(arms, names, effects[:, j].tolist(), strict=True))
    ]
    rows: list[list[Cell]] = [[known.names[j], *effects[:, j].tolist()] for j in features]
    return [
        Figure("effect", title, intervals(drawn, title, zero=True, signed=True), ("feature", *names), rows)
    ]


def _groups(shown: Shown, segments: SegmentReport) -> list[GroupOfDecisions]:
    """Observations of the objective by arm in each segment, those left out that are none of a value and empty."""
    objective = shown.metrics[0].name
    return [
        GroupOfDecisions(each.value or each.kind, [arm.metrics[objective].n for arm in each.arms])
        for each in segments.values
        if each.kind == "value" or any(arm.metrics[objective].n for arm in each.arms)
    ]


def _apart(groups: Sequence[GroupOfDecisions]) -> float:
    """Mean total variation, 0 to 1, of the shares in a group from those of all groups."""
    total = sum(group.total for group in groups)
    if not total:
        return 0.0
    shares: list[float] = [
        sum(counts) / total for counts in zip(*(group.counts for group in groups), strict=True)
    ]
    return sum(
        abs(count - group.total * share) / (2 * total)
        for group in groups
        for count, share in zip(group.counts, shares, strict=True)
    )
