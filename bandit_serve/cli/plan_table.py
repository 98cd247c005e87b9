"""Plan as a table that fits a terminal of 80 columns."""

from __future__ import annotations

from pathlib import Path

from msgspec import UNSET, UnsetType

from bandit_serve.cli.output import print_table, say
from bandit_serve.results.planning import ExperimentPlan, PlannedEffect, PlannedTest

NONE = "–"


def print_plan(plan: ExperimentPlan, plot: Path | None = None) -> None:
    tests = {"fixed end": plan.fixed, "any time": plan.anytime, "horizon": plan.horizon}
    if plan.cuped is not UNSET:
        with_cuped = {"fixed end": plan.cuped, "any time": plan.cuped.anytime, "horizon": plan.cuped.horizon}
        tests |= {f"{name}, CUPED": test for name, test in with_cuped.items()}
    say(f"{title(plan)}: power {plan.power:g}, level {plan.alpha:g}, {plan.arms} arms")
    to_go = plan.analysed is not UNSET
    columns = (
        "Test",
        "Finds",
        "n",
        "Days",
        "n on average",
        "Days on average",
        *(("To go",) if to_go else ()),
    )
    print_table(
        columns,
        [_row(name, test)[: len(columns)] for name, test in tests.items()],
        numbers=columns[2:],
    )
    say(
        f"For any time: expected_samples {plan.anytime.expected_samples}. For a horizon: expected_samples "
        f"{plan.horizon.expected_samples}, looks {plan.horizon.looks}."
    )
    if to_go:
        say(_sentence(plan))
    if plot is not None:
        say(f"Plot: {plot}")


def title(plan: ExperimentPlan) -> str:
    """Baseline and traffic in words."""
    named = [f"{name} {value:.4g}" for name, value in plan.baseline.items()]
    traffic = [] if plan.traffic is None else [f"{plan.traffic:,.0f} a day"]
    of = [] if plan.experiment is UNSET else [plan.experiment]
    asked = f"to find {_effect(plan.fixed.effect)}"
    if plan.fixed.n == plan.anytime.n and plan.fixed.days is not None:
        asked = f"{_days(plan.fixed.days)} days"
    return ", ".join([*of, *named, *traffic, asked])


def _row(name: str, test: PlannedTest) -> tuple[str, ...]:
    return (
        name,
        _effect(test.effect),
        f"{test.n:,}",
        _days(test.days),
        NONE if test.mean_n is UNSET else f"{test.mean_n:,}",
        _days(test.mean_days),
        NONE if test.n_to_go is UNSET else f"{test.n_to_go:,}",
    )


def _effect(effect: PlannedEffect) -> str:
    relative = "" if effect.relative is None else f" ({100 * effect.relative:+.3g} %)"
    return f"{effect.absolute:+.3g}{relative}"


def _days(days: float | UnsetType | None) -> str:
    if days is None or days is UNSET:
        return NONE
    return f"{days:,.1f}" if days < 100 else f"{days:,.0f}"


def _sentence(plan: ExperimentPlan) -> str:
    """Sentence on what an experiment still takes to find it, looked at at any time."""
    test = plan.anytime
    if test.n_to_go == 0:
        return f"There are enough observations to see {_effect(test.effect)} with that power."
    if test.days_to_go is None or test.days_to_go is UNSET:
        return f"About {test.n_to_go:,} more observations to see {_effect(test.effect)}."
    return f"About {_days(test.days_to_go)} more days at this traffic to see {_effect(test.effect)}."
