"""Trade-off of an experiment between metrics: what its policy makes the most of, and which bounds it keeps."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from msgspec import UNSET

from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.errors import FieldError
from bandit_serve.experiments.constraint import Constraint
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.policies import Thompson
from bandit_serve.policies.mixtures import Bound, Tradeoff

MIN_WEIGHT = 1e-12
MAX_TRADED_ARMS = 300
"""Arms of an experiment with weights or constraints: shares of so many take up to 40 ms, also within a request."""
NO_ZERO = (
    'expected a metric that has the value 0, as a missing one counts so; or "ignore" as attribution.missing'
)


def traded(experiment: Experiment) -> tuple[int, ...]:
    """Indices of the metrics that the policy goes by: the objective's, then those of the others in their order."""
    objective = experiment.metrics.index(experiment.objective)
    named = {*(experiment.weights or ()), *(each.metric for each in experiment.constraints or ())}
    others = (i for i, metric in enumerate(experiment.metrics) if metric.name in named and i != objective)
    return objective, *others


def without_tradeoff(experiment: Experiment) -> Experiment:
    """Same experiment, whose policy goes by the objective alone."""
    return msgspec.structs.replace(experiment, weights=UNSET, constraints=UNSET)


def tradeoff_of(experiment: Experiment, *, of_utilities: bool) -> Tradeoff:
    """Trade-off between the metrics that `traded` lists.

    of_utilities: whether the objective's numbers are what a policy learns from, of which more is better.
    """
    places = traded(experiment)
    metrics = [experiment.metrics[i] for i in places]
    weights = np.array([(experiment.weights or {}).get(metric.name, 0.0) for metric in metrics])
    weights[0] = weights[0] or _sign(metrics[0])
    if of_utilities:
        weights[0] = abs(weights[0])
    names = [metric.name for metric in metrics]
    bounds = tuple(
        Bound(names.index(each.metric), each.sign, each.limit) for each in experiment.constraints or ()
    )
    return Tradeoff(weights, bounds)


def tradeoff_errors(experiment: Experiment, objective: str | None) -> list[FieldError]:
    """Errors of weights and constraints; `objective` is the objective's name, None where there is none."""
    if not experiment.trades:
        return []
    errors = [*_weight_errors(experiment, objective), *_constraint_errors(experiment, objective)]
    if experiment.policy.kind != Thompson.kind:
        detail = (
            f'expected "{Thompson.kind}" with weights or constraints: no other policy goes by several metrics'
        )
        errors.append(FieldError("policy.kind", detail))
    if len(experiment.arms) > MAX_TRADED_ARMS:
        detail = f"expected at most {MAX_TRADED_ARMS} with weights or constraints, not {len(experiment.arms)}"
        errors.append(FieldError("arms", detail))
    if experiment.stopping.rule is not UNSET:
        detail = "expected none with weights or constraints: winners are of the objective alone"
        errors.append(FieldError("stopping.rule", detail))
    if experiment.stopping.promote_winner:
        detail = "expected false with weights or constraints: winners are of the objective alone"
        errors.append(FieldError("stopping.promote_winner", detail))
    return errors


def _weight_errors(experiment: Experiment, objective: str | None) -> Iterator[FieldError]:
    metrics = {metric.name: metric for metric in experiment.metrics}
    for name, weight in (experiment.weights or {}).items():
        at, metric = f"weights.{name}", metrics.get(name)
        if metric is None or not metric.is_mean:
            yield FieldError(at, _no_mean(name, metrics))
        elif not weight * _sign(metric) > 0.0:
            side = "above" if metric.goal == "maximize" else "below"
            yield FieldError(at, f"expected a number {side} 0, as the goal of {name} is to {metric.goal}")
        elif abs(weight) < MIN_WEIGHT:
            yield FieldError(at, f"expected a number that is not within {MIN_WEIGHT:g} of 0")
        elif _misses(experiment, metric):
            yield FieldError(at, NO_ZERO)
    if experiment.weights is not UNSET and not set(experiment.weights) - {objective}:
        yield FieldError("weights", "expected another metric beside the objective")


def _constraint_errors(experiment: Experiment, objective: str | None) -> Iterator[FieldError]:
    metrics = {metric.name: metric for metric in experiment.metrics}
    if experiment.constraints is not UNSET and not experiment.constraints:
        yield FieldError("constraints", "expected at least one; leave the field out for none")
    seen: set[tuple[str, float]] = set()
    for i, each in enumerate(experiment.constraints or ()):
        at, metric = f"constraints[{i}]", metrics.get(each.metric)
        if metric is None or not metric.is_mean:
            yield FieldError(f"{at}.metric", _no_mean(each.metric, metrics))
        elif each.metric == objective:
            yield FieldError(f"{at}.metric", "expected another metric than the objective")
        elif (each.metric, each.sign) in seen:
            yield FieldError(f"{at}.metric", "expected a metric once, or once with each bound")
        elif (each.at_most is UNSET) == (each.at_least is UNSET):
            yield FieldError(at, "expected at_most or at_least, and not both")
        elif _misses(experiment, metric):
            yield FieldError(f"{at}.metric", NO_ZERO)
        else:
            yield from _limit_errors(each, metric, at)
        seen.add((each.metric, each.sign))


def _misses(experiment: Experiment, metric: Metric) -> bool:
    """Whether a missing value counts as a zero that the metric can not have."""
    return experiment.missing == "zero" and not metric.served and not metric.traits.takes(0.0)


def _limit_errors(constraint: Constraint, metric: Metric, at: str) -> Iterator[FieldError]:
    """Errors of a bound that no mean, or every mean, keeps."""
    low, high, limit = metric.traits.floor, metric.traits.ceiling, constraint.limit
    if constraint.sign > 0.0 and not low <= limit < high:
        yield FieldError(f"{at}.at_most", f"expected a number from {low:g} to below {high:g}")
    if constraint.sign < 0.0 and not low < limit <= high:
        yield FieldError(f"{at}.at_least", f"expected a number above {low:g}, up to {high:g}")


def _no_mean(name: str, metrics: dict[str, Metric]) -> str:
    means = [metric.name for metric in metrics.values() if metric.is_mean]
    if name in metrics:
        return "expected a metric whose mean is looked at: neither a ratio nor a quantile"
    return f"{expected_one_of(name, means)}, not {name!r}"


def _sign(metric: Metric) -> float:
    return 1.0 if metric.goal == "maximize" else -1.0
