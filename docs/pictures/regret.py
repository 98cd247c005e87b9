"""The picture of a simulation: regret over decisions, as `bandit-serve simulate --plot` draws it.

python docs/pictures/regret.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bandit_serve.simulation import Simulation, run_trials, simulation_report
from bandit_serve.simulation.plot.chart import HEIGHT, WIDTH, chart
from bandit_serve.simulation.plot.page import STYLE

PICTURE = Path(__file__).with_suffix(".svg")
DESCRIPTION = {
    "environment": {"kind": "bernoulli", "arms": [0.12, 0.1, 0.1, 0.1]},
    "policies": ["thompson", "ucb1", "epsilon_greedy", "fixed_split"],
    "horizon": 5_000,
    "seeds": 40,
}
MARGIN = 16


def main() -> None:
    PICTURE.write_text(picture(DESCRIPTION))


def picture(description: dict[str, Any]) -> str:
    """SVG of the simulation that is described."""
    simulation = Simulation.of(description)
    regret = chart(simulation_report(simulation, run_trials(simulation)), "linear")
    width, height = WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n'
        f"<style>{STYLE} .chart {{ margin: 0; }} text {{ font-family: system-ui, sans-serif; }}</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="var(--paper)"/>\n'
        f'<svg x="{MARGIN}" y="{MARGIN}" width="{WIDTH}" height="{HEIGHT}">\n{regret}\n</svg>\n</svg>\n'
    )


if __name__ == "__main__":
    main()
