"""Courses of an experiment: shares, means, differences and rates over its time, with its changes marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import TypeVar

import numpy as np

from bandit_serve.base.clock import rfc3339, unix_ms
from bandit_serve.experiments.metric import Metric
from bandit_serve.pictures.course import CourseOfArm, TimeMark, lines, stacked
from bandit_serve.pictures.figure import Cell, Figure
from bandit_serve.pictures.shown import Shown
from bandit_serve.results import MetricHistory

T = TypeVar("T")
Ends = tuple[list[float | None], list[float | None]]

MAX_DRAWN = 120
"""Times that are drawn of those that there are, evenly chosen: a picture has no room for more."""
RATE_STEPS = 40
"""Equal spans of time for which a rate is drawn."""


class Courses:
    """Figures of what is shown of an experiment; `are_known` is whether there are two times to draw between.

    marks: times that are marked in each figure.
    """

    def __init__(self, shown: Shown, marks: Sequence[TimeMark]) -> None:
        self._history = shown.history
        self._control = shown.control
        self._marks = marks
        self._arms = list(enumerate(self._history.arms))

    @property
    def are_known(self) -> bool:
        return len(self._history.at) > 1

    @cached_property
    def _drawn(self) -> list[int]:
        """Places of the times that are drawn, the first and the last among them."""
        count = len(self._history.at)
        chosen: list[int] = np.linspace(0, count - 1, min(count, MAX_DRAWN)).round().astype(int).tolist()
        return chosen

    def _some(self, column: Sequence[T]) -> list[T]:
        return [column[place] for place in self._drawn]

    def _thin(self, series: Sequence[CourseOfArm]) -> list[CourseOfArm]:
        return [
            each._replace(
                values=self._some(each.values),
                low=self._some(each.low) if each.low else (),
                high=self._some(each.high) if each.high else (),
            )
            for each in series
        ]

    @cached_property
    def _at_ms(self) -> list[int]:
        return [unix_ms(datetime.fromisoformat(at)) for at in self._history.at]

    def shares(self) -> Figure:
        series = [CourseOfArm(arm, k, self._history.arms[arm].share) for k, arm in self._arms]
        title = "Share of traffic"
        at_ms, drawn = self._some(self._at_ms), self._thin(series)
        svg = stacked(at_ms, drawn, title, self._marks, of=("share",), name="shares")
        return self._figure("shares", title, svg, series)

    def of_metric(self, metric: Metric, place: int) -> list[Figure]:
        """Means of a metric, and differences to control where there is another arm; `place` tells metrics apart."""
        figures = [
            self._lines(f"mean-{place}", f"Mean of {metric.name}", metric, "mean", attrgetter("interval"))
        ]
        if len(self._arms) > 1:
            title = f"Difference to {self._control}" + (f", {metric.name}" if place else "")
            ends = attrgetter("difference_interval")
            figures.append(self._lines(f"difference-{place}", title, metric, "difference", ends))
        return figures

    def rates(self, objective: Metric) -> list[Figure]:
        """Decisions and observations of the objective, by arm, in a second."""
        arms = self._history.arms
        return [
            self._rates("decisions", "Decisions a second", [arms[arm].exposures for _, arm in self._arms]),
            self._rates(
                "observations",
                f"Observations of {objective.name} a second",
                [arms[arm].metrics[objective.name].n for _, arm in self._arms],
            ),
        ]

    def _lines(
        self,
        name: str,
        title: str,
        metric: Metric,
        field: str,
        interval: Callable[[MetricHistory], Sequence[tuple[float, float] | None]],
    ) -> Figure:
        series = []
        for k, arm in self._arms:
            of = self._history.arms[arm].metrics[metric.name]
            if field == "mean" or arm != self._control:
                series.append(CourseOfArm(arm, k, getattr(of, field), *_ends(interval(of))))
        way = ("metrics", metric.name, field)
        at_ms, drawn = self._some(self._at_ms), self._thin(series)
        svg = lines(at_ms, drawn, title, self._marks, of=way, name=name)
        return self._figure(name, title, svg, series)

    def _rates(self, name: str, title: str, counts: Sequence[Sequence[int]]) -> Figure:
        edges = np.linspace(self._at_ms[0], self._at_ms[-1], RATE_STEPS + 1)
        span_s = max((edges[1] - edges[0]) / 1_000, 1e-3)
        steps = [np.maximum(np.diff(np.interp(edges, self._at_ms, count)), 0.0) / span_s for count in counts]
        corners = [int(edge) for edge in np.repeat(edges, 2)[1:-1]]
        series = [
            CourseOfArm(arm, k, np.repeat(rates, 2).tolist())
            for (k, arm), rates in zip(self._arms, steps, strict=True)
        ]
        svg = stacked(corners, series, title, self._marks, name=name, whole=False)
        rows: list[list[Cell]] = [
            [rfc3339(int(start)), *row]
            for start, *row in zip(edges[:-1].tolist(), *(rates.tolist() for rates in steps), strict=True)
        ]
        return Figure(name, title, svg, ["from", *(arm for _, arm in self._arms)], rows)

    def _figure(self, name: str, title: str, svg: str, series: Sequence[CourseOfArm]) -> Figure:
        head = ["at"]
        columns: list[Sequence[Cell]] = [self._history.at]
        for each in series:
            head.append(each.name)
            columns.append(each.values)
            if each.low:
                head += [f"{each.name} low", f"{each.name} high"]
                columns += [each.low, each.high]
        return Figure(name, title, svg, head, list(zip(*columns, strict=True)))


def marks_of(shown: Shown, *, labelled: bool = False) -> list[TimeMark]:
    """Marks of an experiment's changes; labels are their places in its history, from 1."""
    return [
        TimeMark(
            unix_ms(datetime.fromisoformat(change.at)),
            str(place) if labelled else "",
            _told(change.at, change.who, change.what, change.arm or "", change.reason or ""),
        )
        for place, change in enumerate(shown.changes, 1)
    ]


def _told(at: str, who: str, what: str, arm: str, reason: str) -> str:
    told = f"{at[:16].replace('T', ' ')} UTC, {who}: {' '.join(filter(None, [what.replace('_', ' '), arm]))}"
    return f"{told}. {reason}" if reason else told


def _ends(intervals: Sequence[tuple[float, float] | None]) -> Ends:
    return [None if each is None else each[0] for each in intervals], [
        None if each is None else each[1] for each in intervals
    ]
