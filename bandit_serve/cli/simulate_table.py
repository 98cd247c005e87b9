"""Table of a simulation's report, in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bandit_serve.cli.output import print_table, say
from bandit_serve.simulation.report import SimulationReport


def print_report(report: SimulationReport, elapsed_s: float, written: Sequence[Path]) -> None:
    seeds = "one seed" if report.seeds == 1 else f"{report.seeds:,} seeds"
    decisions = report.horizon * report.seeds * len(report.policies)
    say(f"{report.summary}: {report.horizon:,} decisions, {seeds}")
    print_table(
        ("Policy", "Regret", "Behind", "Reward", "Best arm", "At the end"),
        [
            (
                each.name,
                str(each.regret),
                "–" if each is report.ranked[0] else str(each.behind),
                f"{each.reward.mean:.4g}",
                f"{100 * each.best_share.mean:.1f} %",
                f"{100 * each.late_best_share.mean:.1f} %",
            )
            for each in report.ranked
        ],
        numbers=("Regret", "Behind", "Reward", "Best arm", "At the end"),
    )
    if report.seeds > 1:
        say(
            "± is one standard error. Behind: on the same outcomes, seed by seed. At the end: the last quarter."
        )
    say(_floors(report))
    if report.growth is not None:
        say(f"Lai–Robbins: in the long run regret grows like C ln t at best, C = {report.growth:.4g}.")
    say(f"{decisions:,} decisions in {elapsed_s:.1f} s.")
    for path in written:
        say(f"Plot: {path}")


def _floors(report: SimulationReport) -> str:
    """Sentence on each policy's minimum share, which adds to its regret."""
    served = {each.min_share for each in report.policies if "min_share" not in each.policy and each.min_share}
    if not served:
        return "No arm has a floor under its share, unless min_share is given."
    return (
        f"Each arm has a share of at least {max(served):g}, as when served, unless min_share is given "
        "(fixed_split has none)."
    )
