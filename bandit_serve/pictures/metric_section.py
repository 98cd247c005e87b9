"""Section of a page on one metric: its estimates, and those that are guarded or adjusted."""

from __future__ import annotations

from html import escape

from msgspec import UNSET

from bandit_serve.experiments.metric import Metric
from bandit_serve.pictures.intervals import Row, intervals
from bandit_serve.pictures.shown import Shown
from bandit_serve.pictures.table import NONE, Column, number, p_cell, table, with_interval
from bandit_serve.results import AdjustedResult, GuardrailResult, MetricResult

Arm = tuple[int, str, MetricResult]


def metric_section(shown: Shown, metric: Metric) -> str:
    arms = _arms(shown, metric)
    return f"""<section>
<h2>{escape(metric.name)} <small>{escape(_about(metric, arms))}</small></h2>
<div class="pictures">{"".join(estimates(shown, metric))}</div>
{_comparison(shown, arms)}
{_guardrail(shown, metric, arms)}{_adjusted(shown, metric, arms)}</section>
"""


def estimates(shown: Shown, metric: Metric) -> list[str]:
    """Pictures of the means, and of the differences where there is another arm than control."""
    arms = _arms(shown, metric)
    pictures = [
        intervals([Row(arm, k, of.mean, of.interval) for k, arm, of in arms], f"Mean of {metric.name}")
    ]
    others = [
        Row(arm, k, of.difference, of.difference_interval) for k, arm, of in arms if arm != shown.control
    ]
    if others:
        pictures.append(intervals(others, f"Difference to {shown.control}", zero=True, signed=True))
    return pictures


def _arms(shown: Shown, metric: Metric) -> list[Arm]:
    return [(k, arm.name, arm.metrics[metric.name]) for k, arm in enumerate(shown.report.arms)]


def _about(metric: Metric, arms: list[Arm]) -> str:
    parts = ["the objective" if metric.role == "objective" else str(metric.role), metric.kind, metric.goal]
    if metric.quantile is not UNSET:
        parts.append(f"means are the quantile {metric.quantile:g}")
    if metric.cap is not UNSET:
        parts.append(f"capped at {metric.cap:g}")
    since = next((of.since for _, _, of in arms if of.since is not UNSET), None)
    if since is not None:
        parts.append(f"joined at {since[:16].replace('T', ' ')}, without decisions of before")
    return ", ".join(parts)


def _comparison(shown: Shown, arms: list[Arm]) -> str:
    results = [of for _, _, of in arms]
    return table(
        [
            Column("arm", [escape(arm) for _, arm, _ in arms]),
            Column("n", [f"{of.n:,}" for of in results]),
            Column("mean", [with_interval(of.mean, of.interval) for of in results]),
            Column(f"to {escape(shown.control)}", [_difference(shown, arm, of) for _, arm, of in arms]),
            Column("lift", [with_interval(of.lift, of.lift_interval, "+.1%") for of in results]),
            Column("p", [p_cell(of.p_value) for of in results]),
            Column("p, all metrics", [p_cell(of.p_value_corrected) for of in results]),
            Column("P(best)", [number(of.probability_best, ".3f") for of in results]),
            Column("loss", [number(of.expected_loss, ".3g") for of in results]),
            Column("std", [number(of.std) for of in results]),
            Column("uncapped", [number(of.raw_mean) for of in results]),
        ]
    )


def _difference(shown: Shown, arm: str, of: MetricResult | AdjustedResult) -> str:
    return "control" if arm == shown.control else with_interval(of.difference, of.difference_interval, "+.4g")


def _guardrail(shown: Shown, metric: Metric, arms: list[Arm]) -> str:
    """Verdicts, and as bad as each difference can be against what is allowed."""
    guarded = [(k, arm, of, of.guardrail) for k, arm, of in arms if isinstance(of.guardrail, GuardrailResult)]
    if not guarded:
        return ""
    worse = -1.0 if metric.goal == "maximize" else 1.0
    rows = [
        Row(
            arm,
            k,
            guard.bound,
            _span(of.difference, guard.bound),
            None if guard.margin is None else worse * guard.margin,
        )
        for k, arm, of, guard in guarded
    ]
    told = (
        f"An arm is safe where the worst that its difference to {shown.control} can be is within the margin, and does "
        "harm where it is shown to be worse. A line goes from the difference to the worst that it can be, which is the "
        "dot; the tick is the margin. Each arm is at its part of alpha."
    )
    verdicts = table(
        [
            Column("arm", [escape(arm) for _, arm, _, _ in guarded]),
            Column(
                "verdict",
                [f'<span class="{guard.verdict}">{guard.verdict}</span>' for _, _, _, guard in guarded],
            ),
            Column("difference", [number(of.difference, "+.4g") for _, _, of, _ in guarded]),
            Column("at worst", [number(guard.bound, "+.4g") for _, _, _, guard in guarded]),
            Column("margin", [number(guard.margin) for _, _, _, guard in guarded]),
        ]
    )
    picture = intervals(rows, "At worst, and the margin", zero=True, signed=True)
    return f'<h3>Guardrail</h3>\n<p class="aside">{escape(told)}</p>\n<div class="pictures">{picture}{verdicts}</div>\n'


def _span(one: float | None, other: float | None) -> tuple[float, float] | None:
    return None if one is None or other is None else (min(one, other), max(one, other))


def _adjusted(shown: Shown, metric: Metric, arms: list[Arm]) -> str:
    """Raw results and those that are adjusted by the covariate, each beside the other."""
    both = [(k, arm, raw, raw.adjusted) for k, arm, raw in arms if raw.adjusted is not UNSET]
    if not both:
        return ""
    told = (
        f"θ = {both[0][3].theta:.4g}. Adjusted values are the raw ones less θ times what {metric.covariate} is above "
        "its mean: they have the same mean and vary less. The winner is named by the raw values; decide before the "
        "start which of the two p-values counts."
    )
    means, differences = [], []
    for k, arm, raw, of in both:
        means += [
            Row(arm, k, raw.mean, raw.interval),
            Row(f"{arm}, adjusted", k, of.mean, of.interval, label="adjusted"),
        ]
        if arm != shown.control:
            differences += [
                Row(arm, k, raw.difference, raw.difference_interval),
                Row(f"{arm}, adjusted", k, of.difference, of.difference_interval, label="adjusted"),
            ]
    pictures = [intervals(means, f"Mean of {metric.name}, raw and adjusted")]
    if differences:
        title = f"Difference to {shown.control}, raw and adjusted"
        pictures.append(intervals(differences, title, zero=True, signed=True))
    columns = table(
        [
            Column("arm", [escape(arm) for _, arm, _, _ in both]),
            Column("raw mean", [with_interval(raw.mean, raw.interval) for _, _, raw, _ in both]),
            Column("adjusted mean", [with_interval(of.mean, of.interval) for _, _, _, of in both]),
            Column(
                f"raw, to {escape(shown.control)}", [_difference(shown, arm, raw) for _, arm, raw, _ in both]
            ),
            Column(
                f"adjusted, to {escape(shown.control)}",
                [_difference(shown, arm, of) for _, arm, _, of in both],
            ),
            Column("raw p", [p_cell(raw.p_value) for _, _, raw, _ in both]),
            Column("adjusted p", [p_cell(of.p_value) for _, _, _, of in both]),
            Column("width", [_width(raw, of) for _, _, raw, of in both]),
        ]
    )
    return (
        f"<h3>Adjusted by {escape(str(metric.covariate))} (CUPED)</h3>\n"
        f'<p class="aside">{escape(told)}</p>\n<div class="pictures">{"".join(pictures)}</div>\n{columns}\n'
    )


def _width(raw: MetricResult, adjusted: AdjustedResult) -> str:
    """Width of the adjusted interval of the difference in those of the raw one."""
    if raw.difference_interval is None or adjusted.difference_interval is None:
        return NONE
    (low, high), (below, above) = adjusted.difference_interval, raw.difference_interval
    return f"× {(high - low) / (above - below):.2f}" if above > below else NONE
