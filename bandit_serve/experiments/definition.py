"""Definition of a metric for all experiments that name it: what it measures, not the part that it plays in them."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.names import Name
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Cap, KindOfMetric, Metric, Quantile, Source
from bandit_serve.experiments.spec import Arm, Attribution, Experiment, Owner, Text
from bandit_serve.metrics.kind import Goal


class MetricDefinition(Struct, frozen=True, forbid_unknown_fields=True):
    """Definition of a metric: the fields of `Metric` that are no experiment's own, what it is for, and whose it is."""

    kind: KindOfMetric
    goal: Goal = "maximize"
    low: float | None = None
    high: float | None = None
    source: Source | UnsetType = UNSET
    cap: Cap | UnsetType = UNSET
    quantile: Quantile | UnsetType = UNSET
    covariate: Name | UnsetType = UNSET
    numerator: Name | UnsetType = UNSET
    denominator: Name | UnsetType = UNSET
    description: Text | UnsetType = UNSET
    owner: Owner | UnsetType = UNSET

    @classmethod
    def of(cls, metric: Metric) -> MetricDefinition:
        """Definition that gives this metric."""
        return cls(**{name: getattr(metric, name) for name in DEFINED})

    def defines(self, metric: Metric) -> bool:
        """Whether a metric is what the definition says, whatever its name and its part."""
        return all(getattr(self, name) == getattr(metric, name) for name in DEFINED)

    def metric(self, name: str) -> Metric:
        """Metric of this name, without a role."""
        return Metric(name=name, **{each: getattr(self, each) for each in DEFINED})


DEFINED = tuple(name for name in MetricDefinition.__struct_fields__ if name in Metric.__struct_fields__)
"""Fields of a metric that a definition has."""


def checked(name: str, definition: MetricDefinition) -> MetricDefinition:
    """Definition of the metric `name` as it is logged. `InvalidInput` names the fields that no experiment would take.

    It is tried in an experiment of users, in which it is secondary and has the parts that a ratio needs.
    """
    metric = definition.metric(name)
    parts = {part: None for part in (metric.numerator, metric.denominator) if part is not UNSET}
    errors = [
        FieldError(at, "expected another metric than itself")
        for at in ("numerator", "denominator")
        if getattr(metric, at) == name
    ]
    objective = Metric(_free_name({name, *parts}), "binary", role="objective")
    counts = tuple(Metric(part, "count") for part in parts if part != name)
    experiment = Experiment(
        id="definition",
        arms=(Arm("control"),),
        metrics=(objective, metric, *counts),
        unit="user",
        attribution=Attribution(missing="ignore"),
    )
    try:
        experiment = validated(experiment)
    except InvalidInput as error:
        found = (
            FieldError(each.at.removeprefix("metrics[1]").removeprefix("."), each.detail)
            for each in error.errors
        )
        told = {each.at for each in errors}
        errors += [each for each in found if each.at not in told]
    if errors:
        first = errors[0]
        where = f"{first.at}: {first.detail}" if first.at else first.detail
        raise InvalidInput(f"The metric {name!r} is not valid: {where}.", errors)
    logged = MetricDefinition.of(experiment.metrics[1])
    return msgspec.structs.replace(logged, description=definition.description, owner=definition.owner)


def _free_name(taken: Collection[str]) -> str:
    return next(name for name in ("a", "b", "c", "d") if name not in taken)
