"""Page with the plot: one HTML file that loads nothing and follows the reader's light or dark theme."""

from __future__ import annotations

from html import escape

import msgspec

from bandit_serve.pictures.scale import AxisKind
from bandit_serve.pictures.theme import FONTS, ROOT, Theme
from bandit_serve.simulation.plot.chart import chart
from bandit_serve.simulation.plot.style import CHART_STYLE
from bandit_serve.simulation.report import MeanOverSeeds, SimulationReport

CLEAR = 2.0
"""Number of standard errors that the second must be behind for the title to name the first."""

STYLE = (
    ROOT
    + """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 32px 40px 40px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 """
    + FONTS
    + """; }
h1 { font-size: 23px; line-height: 1.25; font-weight: 650; margin: 0 0 4px; letter-spacing: -.01em; }
p { margin: 0; color: var(--soft); }
.axes { margin: 16px 0 0; display: flex; gap: 4px; font-size: 13px; color: var(--soft); }
.axes span { padding: 3px 6px 3px 0; }
.axes label { padding: 3px 11px; border-radius: 99px; cursor: pointer; }
.pick { position: absolute; opacity: 0; pointer-events: none; }
#linear:checked ~ .axes label[for=linear], #log:checked ~ .axes label[for=log]
  { background: var(--grid); color: var(--ink); }
#linear:focus-visible ~ .axes label[for=linear], #log:focus-visible ~ .axes label[for=log]
  { outline: 2px solid var(--s0); }
#linear:checked ~ .log, #log:checked ~ .linear { display: none; }
"""
    + CHART_STYLE
    + """table { border-collapse: collapse; width: 100%; margin: 28px 0 0; font-size: 14px; }
th, td { text-align: right; padding: 7px 0 7px 18px; border-bottom: 1px solid var(--grid);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; width: 100%; white-space: normal; }
td:first-child { font-weight: 600; }
td small { color: var(--soft); font-size: 13px; }
.note { margin-top: 18px; font-size: 13px; max-width: 78ch; }
@media (max-width: 720px) { body { padding: 20px 16px; } .wide { overflow-x: auto; } }
"""
)


def page(report: SimulationReport, kind: AxisKind = "linear", theme: Theme | None = None) -> str:
    """HTML with the chart on both axes (`kind` is shown first), the table, and the report as JSON.

    Without a `theme` the page follows the reader's settings.
    """
    picks = "".join(
        f'<input class="pick" type="radio" name="axis" id="{each}"{" checked" if each == kind else ""}>\n'
        for each in ("linear", "log")
    )
    # Only `<` can end the script element early.
    data = msgspec.json.encode(report).decode().replace("<", "\\u003c")
    return _document(
        report,
        theme,
        f"""{picks}<div class="axes"><span>axis of decisions:</span>
<label for="linear">linear</label><label for="log">log</label></div>
{chart(report, "linear")}
{chart(report, "log")}
<div class="wide">{table(report)}</div>
{note(report)}
<script type="application/json" id="report">{data}</script>""",
    )


def picture_page(report: SimulationReport, kind: AxisKind, theme: Theme) -> str:
    """HTML with only the title and one chart, for a picture."""
    return _document(report, theme, chart(report, kind))


def _document(report: SimulationReport, theme: Theme | None, body: str) -> str:
    chosen = f' data-theme="{theme}"' if theme else ""
    return f"""<!DOCTYPE html>
<html lang="en"{chosen}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title(report))}</title>
<style>
{STYLE}</style>
</head>
<body>
<h1>{escape(title(report))}</h1>
<p>{escape(report.summary)}. {report.horizon:,} decisions, {seeds_text(report)}.</p>
{body}
</body>
</html>
"""


def title(report: SimulationReport) -> str:
    if len(report.policies) == 1:
        return f"Regret of {report.policies[0].name}"
    of_all = f"regret of {len(report.policies)} policies"
    best, second, *_ = report.ranked
    if second.behind.se is None or second.behind.mean < CLEAR * second.behind.se:
        return of_all.capitalize()
    return f"{best.name} loses least: {of_all}"


def seeds_text(report: SimulationReport) -> str:
    return "one seed" if report.seeds == 1 else f"{report.seeds:,} seeds"


def table(report: SimulationReport) -> str:
    first = report.ranked[0]
    rows = "\n".join(
        _row(
            escape(each.name),
            _small(each.regret),
            "–" if each is first else _small(each.behind),
            _small(each.reward),
            _percent(each.best_share),
            _percent(each.late_best_share),
        )
        for each in report.ranked
    )
    return f"""<table>
<thead><tr><th>policy</th><th>regret</th><th>behind the first</th><th>reward a decision</th>
<th>on the best arm</th><th>in the last quarter</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>"""


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _small(estimate: MeanOverSeeds) -> str:
    mean, _, error = str(estimate).partition(" ± ")
    return f"{mean} <small>± {error}</small>" if error else mean


def _percent(estimate: MeanOverSeeds) -> str:
    return f"{100 * estimate.mean:.1f} %"


def note(report: SimulationReport) -> str:
    sentences = [
        "Regret is the expected reward that was lost compared with always choosing the arm that is best at the time.",
    ]
    if report.seeds > 1:
        sentences.append(
            "Bands and ± are one standard error of the mean over seeds. All policies meet the same outcomes on "
            "one seed, so the differences in “behind the first” are known better than the regrets."
        )
    if report.growth is not None:
        sentences.append(
            f"The dotted curve grows like C ln t with C = {report.growth:.4g}, the rate that no policy which is "
            "good everywhere can stay below in the long run (Lai and Robbins 1985). It is drawn through the end "
            "of the best curve of a policy that learns: compare slopes, not heights."
        )
    return f'<p class="note">{escape(" ".join(sentences))}</p>'
