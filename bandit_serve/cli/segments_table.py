"""Results by segment as tables in the terminal."""

from __future__ import annotations

from bandit_serve.cli.output import print_table, say
from bandit_serve.cli.results_table import INTERVALS, NONE, with_interval
from bandit_serve.experiments.spec import Experiment
from bandit_serve.results import SegmentReport, SegmentResult, p_text

HEAD = ("Segment", "n", "Mean", "To control", "p", "Shrunk")


def print_segments(report: SegmentReport, experiment: Experiment) -> None:
    """Prints the results by one field: a table for each metric, with the arms below each segment."""
    said = "declared before the start" if report.declared else "looked up afterwards"
    say(f"\nBy {report.field}, {said}; intervals of {100 * report.level:.4g} %, corrected for all segments")
    for metric in sorted(experiment.metrics, key=lambda metric: metric.role != "objective"):
        rows = [row for each in report.values for row in _rows(each, metric.name, experiment)]
        if rows:
            say(f"\n{metric.name}")
            print_table(HEAD, rows, numbers=("n", "p", "Shrunk"), intervals=INTERVALS)
    say(
        "Shrunk: towards the mean of all segments, with the weight of the segment's own data; an aid, not a test."
    )
    say(f"\n{report.reason}")


def _rows(segment: SegmentResult, metric: str, experiment: Experiment) -> list[tuple[str, ...]]:
    name = segment.kind if segment.value is None else segment.value
    control = experiment.arm_names[experiment.control_arm]
    rows: list[tuple[str, ...]] = []
    for arm in segment.arms:
        result = arm.metrics.get(metric)
        if result is None:
            continue
        shrunk = segment.shrunk.get(arm.name, {}).get(metric)
        rows.append(
            (
                f"  {arm.name}",
                str(result.n),
                with_interval(result.mean, result.interval),
                "control"
                if arm.name == control
                else with_interval(result.difference, result.difference_interval, sign="+"),
                NONE if result.p_value is None else p_text(result.p_value),
                NONE if shrunk is None else f"{shrunk.difference:+.4g}\nof {shrunk.weight:.2f}",
            )
        )
    return [(name, *[""] * (len(HEAD) - 1)), *rows] if rows else []
