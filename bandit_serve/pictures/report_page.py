"""Page of an experiment: one HTML file with its results, its course over time and what they mean in sentences."""

from __future__ import annotations

import re
from html import escape

import msgspec

from bandit_serve.pictures.courses import Courses, marks_of
from bandit_serve.pictures.metric_section import estimates, metric_section
from bandit_serve.pictures.page_style import PAGE_STYLE
from bandit_serve.pictures.segment_section import segment_section
from bandit_serve.pictures.shown import Shown
from bandit_serve.pictures.table import NONE, Column, table
from bandit_serve.pictures.theme import Theme
from bandit_serve.results import Explanation, Report, facts_of


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
{_facts(shown)}
{_told(shown.explained)}
{"".join(metric_section(shown, metric) for metric in shown.metrics)}
{"".join(segment_section(shown, segments) for segments in shown.segments)}
{_open_windows(shown)}{_over_time(shown)}
{_traffic(shown)}
<p class="note">{_note(shown)}</p>
<script type="application/json" id="report">{data}</script>
</body>
</html>
"""


def pictures_of(shown: Shown) -> list[str]:
    """Pictures of the objective and over time, the same as on the page."""
    return [*estimates(shown, shown.metrics[0]), *course(shown)]


def _note(shown: Shown) -> str:
    named = " outside of segments" if shown.segments else ""
    return (
        f"Intervals{named} are of level {shown.level:.4g} and hold at every time, however often one looks. p-values "
        "are adjusted for the number of arms. P(best) and the loss, which is to be expected with an arm, are aids for "
        "deciding, not tests. Dotted lines are changes of the experiment. Times are UTC."
    )


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


def _facts(shown: Shown) -> str:
    facts = [*facts_of(shown.report, shown.experiment), ("Winner", shown.report.winner or "none")]
    return f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{escape(text)}</dd></div>' for name, text in facts)}</dl>"


def _traffic(shown: Shown) -> str:
    arms = shown.report.arms
    columns = table(
        [
            Column("arm", [escape(arm.name) for arm in arms]),
            Column("share now", [f"{arm.share:.1%}" for arm in arms]),
            Column("decisions", [f"{arm.exposures:,}" for arm in arms]),
        ]
    )
    return f'<section><h2>Traffic</h2>\n<div class="narrow">{columns}</div></section>'


def _open_windows(shown: Shown) -> str:
    """Rewards so far of what is in no other number yet, a column for each metric."""
    arms = shown.report.arms
    columns = [
        Column(
            escape(metric.name),
            [
                NONE if preview is None else f"{preview.mean:.4g}<small>of {preview.n:,}</small>"
                for preview in (arm.metrics[metric.name].preview for arm in arms)
            ],
        )
        for metric in shown.metrics
    ]
    if not any(column.says_something for column in columns):
        return ""
    means = table([Column("arm", [escape(arm.name) for arm in arms]), *columns])
    return (
        '<section><h2>Open windows <small>not final</small></h2>\n<p class="aside">Mean of the rewards so far of '
        f"decisions whose window has not closed. They are in no other number.</p>\n{means}</section>\n"
    )


def _over_time(shown: Shown) -> str:
    pictures = "".join(course(shown))
    return f'<section><h2>Over time</h2><div class="pictures">{pictures}</div></section>' if pictures else ""


def course(shown: Shown) -> list[str]:
    """Shares, and the objective's means and differences, over time; nothing where less than two times are known."""
    courses = Courses(shown, marks_of(shown))
    if not courses.are_known:
        return []
    return [figure.svg for figure in (courses.shares(), *courses.of_metric(shown.metrics[0], 0))]
