"""Tables of an evaluation in the terminal, and its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bandit_serve.cli.output import print_table, say
from bandit_serve.evaluation.evaluation import METHODS, CandidateValue, Evaluation
from bandit_serve.evaluation.learning import LearningEvaluation
from bandit_serve.results.off_policy import Estimate

NONE = "–"


def single(found: Evaluation | LearningEvaluation) -> dict[str, Any]:
    """Plain values of an evaluation. Of one policy alone all is on the first level, too."""
    document: dict[str, Any] = msgspec.to_builtins(found)
    if len(found.policies) == 1:
        document |= document["policies"][0]
    return document


def print_evaluation(found: Evaluation, plot: Path | None) -> None:
    """Prints a table of values, with what is to be said of each policy below."""
    goal = "more is better" if found.goal == "maximize" else "less is better"
    of = "units" if found.unit == "user" else "decisions"
    say(f"{found.experiment}: mean {found.metric} of {found.n:,} {of} ({goal}), {found.interval} intervals")
    rows = [("as it was", "mean", *numbers_of(found.logged), "")]
    for each in found.policies:
        effective = "" if each.diagnostics is None else f"{each.diagnostics.effective_sample_size:,.0f}"
        for place, method in enumerate(method for method in METHODS if method in each.estimates):
            name, samples = (each.name, effective) if place == 0 else ("", "")
            rows.append((name, method, *numbers_of(each.estimates[method]), samples))
        if not each.estimates:
            rows.append((each.name, NONE, NONE, NONE, NONE, effective))
    columns = ("Policy", "Method", "Value", "SE", f"{1 - found.alpha:.0%} of all", "Eff. samples")
    print_table(columns, rows, numbers=("Value", "SE", "Eff. samples"), intervals=columns[4:5])
    if found.searched:
        _print_search(found)
    for each in found.policies:
        _say_of(each)
    if found.missing == "ignore":
        say("Only decisions with a reward count (missing: ignore): values are of those.")
    if plot is not None:
        say(f"Plot: {plot}")


def _print_search(found: Evaluation) -> None:
    say(f"{found.policies[0].name} was the best of {len(found.searched)} on the other half:")
    rows = [
        (
            each.name,
            NONE if each.value is None else f"{each.value:.4g}",
            NONE if each.standard_error is None else f"{each.standard_error:.2g}",
        )
        for each in found.searched
    ]
    print_table(("Policy", "Value (dr)", "SE"), rows, numbers=("Value (dr)", "SE"))


def _say_of(each: CandidateValue) -> None:
    for sentence in (*each.warnings, *((each.refusal,) if each.refusal else ())):
        say(f"{each.name}: {sentence}")


def numbers_of(estimate: Estimate) -> tuple[str, str, str]:
    """Value, standard error and interval of an estimate, for a table."""
    interval = NONE
    if estimate.interval is not None:
        interval = f"{estimate.interval[0]:.4g} … {estimate.interval[1]:.4g}"
    return f"{estimate.value:.4g}", f"{estimate.standard_error:.2g}", interval
