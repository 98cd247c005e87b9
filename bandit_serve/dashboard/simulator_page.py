"""Page of the simulator: a world and policies to describe, and what came of them."""

from __future__ import annotations

from typing import Any

import msgspec
from markupsafe import Markup

from bandit_serve.pictures.scale import AxisKind
from bandit_serve.simulation.plot.chart import chart
from bandit_serve.simulation.plot.page import note, seeds_text, table, title
from bandit_serve.simulation.report import SimulationReport

BEGINNING: dict[str, Any] = {
    "environment": {"kind": "bernoulli", "arms": [0.1, 0.11, 0.13]},
    "policies": ["thompson", "ucb1", "epsilon_greedy:epsilon=0.1", "fixed_split"],
    "horizon": 10_000,
    "seeds": 20,
}
AXES: tuple[AxisKind, ...] = ("linear", "log")


def simulator_parts(report: SimulationReport, axis: AxisKind) -> dict[str, Any]:
    """Content of the result for the template: a title, the chart with this axis of decisions, a table, and notes."""
    return {
        "title": title(report),
        "summary": f"{report.summary}. {report.horizon:,} decisions, {seeds_text(report)}.",
        "chart": Markup(chart(report, axis)),
        "table": Markup(table(report)),
        "note": Markup(note(report)),
    }


def document_text(document: Any) -> str:
    """JSON for people to edit."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
