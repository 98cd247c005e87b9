"""Rating rule: makes ratings, which a model learns from, of an experiment's rewards."""

from __future__ import annotations

import math
import re

from msgspec import Struct

from bandit_serve.errors import UsageError
from bandit_serve.experiments.spec import Experiment

NUMBER = r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
RULE = re.compile(rf"(?:({NUMBER})\s*([+-])\s*)?(?:({NUMBER})\s*\*\s*)?(\S+)")


class RatingRule(Struct, frozen=True):
    """A rating is shift + factor · reward of the metric with that number in its experiment.

    `unit` says what such ratings are of: those of another unit are not learned by the same model. It is None where the
    rule was given, so that whoever did has seen to it.
    """

    metric: int = 0
    factor: float = 1.0
    shift: float = 0.0
    unit: str | None = None

    def rating(self, reward: float) -> float:
        return self.shift + self.factor * reward


def rule_of(experiment: Experiment) -> RatingRule:
    """Objective's rewards as utilities, larger is better, as policies have them (`Metric.utility`)."""
    metric, number = experiment.objective, experiment.metrics.index(experiment.objective)
    match metric.kind:
        case "binary":
            unit = "binary"
        case "bounded":
            unit = f"bounded by {metric.floor:g} and {metric.ceiling:g}"
        case _:  # of no unit that is declared, so that only the name tells whether two are of one
            unit = f"{metric.kind} {metric.name!r}"
    if metric.goal == "maximize":
        return RatingRule(number, unit=unit)
    is_bounded = metric.kind in ("binary", "bounded")
    return RatingRule(
        number, -1.0, metric.floor + metric.ceiling if is_bounded else 0.0, f"{unit}, minimized"
    )


def read_rules(texts: list[str]) -> dict[str, str]:
    """Text of each experiment's rule, of `EXPERIMENT=[SHIFT +] [FACTOR *] METRIC`."""
    rules = {}
    for text in texts:
        experiment, sign, rule = text.partition("=")
        if not sign or RULE.fullmatch(rule.strip()) is None:
            raise UsageError(f"Expected a rating as 'EXPERIMENT=1 + 4 * METRIC', not {text!r}.")
        rules[experiment.strip()] = rule.strip()
    return rules


def read_rule(text: str, experiment: Experiment) -> RatingRule:
    """Rule of one experiment from its text. `UsageError` for a metric that it does not have."""
    match = RULE.fullmatch(text)
    assert match is not None
    shift, sign, factor, name = match.groups()
    names = [metric.name for metric in experiment.metrics]
    if name not in names:
        raise UsageError(f"The experiment {experiment.id} has no metric {name!r}; it has {', '.join(names)}.")
    slope = float(factor or 1.0) * (-1.0 if sign == "-" else 1.0)
    if not (math.isfinite(slope) and slope and math.isfinite(float(shift or 0.0))):
        raise UsageError(f"The rating {text!r} must have finite numbers, and a factor that is not 0.")
    return RatingRule(names.index(name), slope, float(shift or 0.0))
