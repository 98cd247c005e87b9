"""Page of an experiment: one HTML file with its results, its course over time and what they mean in sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import NamedTuple

import msgspec

from bandit_serve.base.clock import unix_ms
from bandit_serve.experiments.spec import Record
from bandit_serve.pictures.course import CourseOfArm, lines, stacked
from bandit_serve.pictures.intervals import Row, intervals
from bandit_serve.pictures.style import STYLE
from bandit_serve.pictures.theme import FONTS, ROOT, Theme
from bandit_serve.results import (
    Explanation,
    MetricResult,
    Report,
    ResultsFold,
    ResultsHistory,
    TimelineChange,
    explanation,
    report,
    results_history,
)

NONE = "–"
PAGE_STYLE = (
    ROOT
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 32px 48px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 """
    + FONTS
    + """; overflow-wrap: anywhere; }
h1 { font-size: 24px; line-height: 1.25; font-weight: 650; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; font-weight: 650; margin: 36px 0 8px; }
h2 small { font-weight: 400; font-size: 13px; color: var(--soft); }
p { margin: 0; color: var(--soft); }
.verdict { margin: 14px 0 0; padding: 10px 14px; border-left: 4px solid var(--s0); background: var(--faint);
  color: var(--ink); }
.told { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 8px 32px; margin-top: 8px; }
.told h3 { font-size: 14px; font-weight: 650; margin: 16px 0 4px; }
.told ul { margin: 0; padding-left: 18px; font-size: 14px; }
code { font-size: .92em; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(360px, 100%), 1fr)); gap: 20px 40px;
  margin-top: 12px; }
.picture { display: block; width: 100%; height: auto; font-family: inherit; }
.wide { overflow-x: auto; margin-top: 14px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: right; padding: 6px 0 6px 16px; border-bottom: 1px solid var(--grid); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { font-weight: 600; white-space: normal; min-width: 90px; }
td small { color: var(--soft); font-size: 12px; display: block; }
.note { margin-top: 28px; font-size: 13px; max-width: 78ch; }
@media (max-width: 640px) { body { padding: 20px 16px 32px; } table { font-size: 13px; } }
@media print {
  body { padding: 0; max-width: none; font-size: 11pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .pictures { grid-template-columns: 1fr 1fr; gap: 14px 24px; }
  .picture, tr, .verdict, li { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .wide { overflow: visible; }
  table { font-size: 9.5pt; }
  th, td { padding: 4px 0 4px 10px; }
}
"""
    + STYLE
)


class Shown(NamedTuple):
    """Everything that a page shows. `metrics`: their names, the objective first; `control`: an arm's name."""

    report: Report
    history: ResultsHistory
    changes: Sequence[TimelineChange]
    explained: Explanation
    metrics: Sequence[str]
    control: str
    alpha: float


def shown_of(
    fold: ResultsFold,
    record: Record,
    shares: dict[str, float],
    changes: Sequence[TimelineChange],
    as_of_ms: int,
) -> Shown:
    """What a page shows of a fold; `record`, `shares` and `as_of_ms` as for a report."""
    made = report(fold, record, shares, as_of_ms)
    experiment = fold.record.experiment
    metrics = sorted(experiment.metrics, key=lambda metric: metric.role != "objective")
    return Shown(
        made,
        results_history(fold),
        changes,
        explanation(fold, made, changes),
        [metric.name for metric in metrics],
        experiment.arm_names[experiment.control_arm],
        experiment.stopping.alpha,
    )


def report_page(shown: Shown, theme: Theme | None = None) -> str:
    """HTML of one file. Without a `theme` it follows the reader's settings."""
    made = shown.report
    chosen = f' data-theme="{theme}"' if theme else ""
    # Only `<` can end the script element early.
    data = msgspec.json.encode(made).decode().replace("<", "\\u003c")
    title = escape(f"{made.experiment}: {_verdict(made)}")
    return f"""<!DOCTYPE html>
<html lang="en"{chosen}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{PAGE_STYLE}</style>
</head>
<body>
<h1>{escape(made.experiment)}</h1>
<p>{escape(made.status)}, as of {made.as_of[:16].replace("T", " ")} UTC</p>
<p class="verdict">{escape(made.reason)}</p>
{_told(shown.explained)}
{"".join(_metric(shown, name) for name in shown.metrics)}
{_over_time(shown)}
<p class="note">Intervals are of level {1 - shown.alpha:.4g} and hold at every time, however often one looks. Dotted
lines are changes of the experiment. Times are UTC.</p>
<script type="application/json" id="report">{data}</script>
</body>
</html>
"""


def pictures_of(shown: Shown) -> list[str]:
    """Pictures of the objective and over time, the same as on the page."""
    return [*_estimates(shown, shown.metrics[0]), *_course(shown)]


def _verdict(report: Report) -> str:
    return f"{report.winner} wins" if report.winner else "no winner yet"


def _told(explained: Explanation) -> str:
    parts = (
        ("What happened", explained.happened),
        ("Whether it is decided", explained.decided[1:]),
        ("What would decide it", explained.would_decide),
    )
    blocks = "".join(
        f"<div><h3>{title}</h3><ul>{''.join(f'<li>{_sentence(each)}</li>' for each in sentences)}</ul></div>"
        for title, sentences in parts
        if sentences
    )
    return f'<div class="told">{blocks}</div>'


def _sentence(text: str) -> str:
    """HTML of a sentence, in which commands stand between backticks."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _metric(shown: Shown, name: str) -> str:
    role = " <small>the objective</small>" if name == shown.metrics[0] else ""
    rows = "\n".join(_row(shown, arm.name, arm.metrics[name]) for arm in shown.report.arms)
    return f"""<section>
<h2>{escape(name)}{role}</h2>
<div class="pictures">{"".join(_estimates(shown, name))}</div>
<div class="wide"><table>
<thead><tr><th>arm</th><th>n</th><th>mean</th><th>to {escape(shown.control)}</th><th>lift</th><th>p</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
</section>
"""


def _row(shown: Shown, arm: str, result: MetricResult) -> str:
    cells = (
        escape(arm),
        f"{result.n:,}",
        _cell(result.mean, result.interval, ".4g"),
        "control" if arm == shown.control else _cell(result.difference, result.difference_interval, "+.4g"),
        _cell(result.lift, result.lift_interval, "+.1%"),
        NONE
        if result.p_value is None
        else ("&lt; 0.001" if result.p_value < 0.001 else f"{result.p_value:.3f}"),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cell(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
    if value is None:
        return NONE
    ends = "" if interval is None else f"<small>{interval[0]:{form}} to {interval[1]:{form}}</small>"
    return f"{value:{form}}{ends}"


def _estimates(shown: Shown, name: str) -> list[str]:
    results = [(k, arm.name, arm.metrics[name]) for k, arm in enumerate(shown.report.arms)]
    means = [Row(arm, k, result.mean, result.interval) for k, arm, result in results]
    others = [
        Row(arm, k, result.difference, result.difference_interval)
        for k, arm, result in results
        if arm != shown.control
    ]
    pictures = [intervals(means, f"Mean of {name}")]
    if others:
        pictures.append(intervals(others, f"Difference to {shown.control}", zero=True, signed=True))
    return pictures


def _over_time(shown: Shown) -> str:
    pictures = "".join(_course(shown))
    return f'<section><h2>Over time</h2><div class="pictures">{pictures}</div></section>' if pictures else ""


def _course(shown: Shown) -> list[str]:
    """Shares, and the objective's means and differences, over time; nothing where less than two times are known."""
    history, name = shown.history, shown.metrics[0]
    if len(history.at) < 2:
        return []
    at_ms = [unix_ms(datetime.fromisoformat(at)) for at in history.at]
    changes = [unix_ms(datetime.fromisoformat(change.at)) for change in shown.changes]
    arms = list(enumerate(history.arms.items()))
    shares = [CourseOfArm(arm, k, over_time.share) for k, (arm, over_time) in arms]
    means = [
        CourseOfArm(arm, k, metric.mean, *_ends(metric.interval))
        for k, (arm, over_time) in arms
        for metric in (over_time.metrics[name],)
    ]
    pictures = [
        stacked(at_ms, shares, "Share of traffic", changes),
        lines(at_ms, means, f"Mean of {name}", changes, name="means"),
    ]
    differences = [
        CourseOfArm(arm, k, metric.difference, *_ends(metric.difference_interval))
        for k, (arm, over_time) in arms
        for metric in (over_time.metrics[name],)
        if arm != shown.control
    ]
    if differences:
        title = f"Difference to {shown.control}"
        pictures.append(lines(at_ms, differences, title, changes, name="differences"))
    return pictures


def _ends(
    intervals: Sequence[tuple[float, float] | None],
) -> tuple[list[float | None], list[float | None]]:
    return [None if each is None else each[0] for each in intervals], [
        None if each is None else each[1] for each in intervals
    ]
