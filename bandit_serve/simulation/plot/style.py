"""Style sheet of the chart, by class. Its colours are the variables of a page."""

from __future__ import annotations

from bandit_serve.pictures.theme import COLOURS

CHART_STYLE = (
    """
.chart { display: block; width: 100%; height: auto; margin-top: 14px; overflow: visible;
  font-family: inherit; font-size: 13px; }
.chart text { fill: var(--ink); }
.chart .mark, .chart .title, .chart .value { fill: var(--soft); }
.chart .mark, .chart .value { font-variant-numeric: tabular-nums; }
.chart .name { font-weight: 600; }
.chart .value { font-weight: 400; }
.chart .grid { stroke: var(--grid); }
.chart .grid.faint { stroke: var(--faint); }
.chart .axis, .chart .tick { stroke: var(--axis); }
.chart .change { stroke: var(--axis); stroke-dasharray: 2 4; }
.chart .series { transition: opacity .12s; }
.chart .line { fill: none; stroke: var(--c); stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round; }
.chart .leader { fill: none; stroke: var(--c); stroke-width: 1.5; }
.chart .band { fill: var(--c); fill-opacity: .14; stroke: none; }
.chart .dashed .line, .chart .dashed .leader { stroke-dasharray: 7 5; }
.chart .growth .line, .chart .growth .leader
  { stroke-width: 1.75; stroke-dasharray: 1 5; stroke-linecap: round; }
.chart .growth .name { fill: var(--soft); font-weight: 400; }
.chart:has(.series:hover) .series:not(:hover) { opacity: .2; }
.chart .series:hover .line { stroke-width: 3; }
"""
    + "".join(f".chart .s{i} {{ --c: var(--s{i}); }}\n" for i in range(COLOURS))
    + """.chart .even { --c: var(--even); }
.chart .growth { --c: var(--ink); }
"""
)
