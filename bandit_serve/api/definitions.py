"""Catalogue of metrics as callers see it, over HTTP and on the command line."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.clock import rfc3339
from bandit_serve.base.names import Name
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.experiments.spec import Record, Status
from bandit_serve.registry.definitions import Defined


class DefinitionView(MetricDefinition, frozen=True, kw_only=True):
    """The definition of a metric. `revision` is its ETag."""

    name: Name
    revision: int
    updated_at: str
    updated_by: str


class MetricUse(Struct, frozen=True):
    """An experiment that has a metric of this name. `is_current`: that metric is what the catalogue says now."""

    experiment: str
    status: Status
    is_current: bool


class DefinitionUses(DefinitionView, frozen=True, kw_only=True):
    """The definition of a metric, and the experiments that have a metric of its name."""

    experiments: list[MetricUse]


class DefinitionList(Struct, frozen=True):
    """`after` as in `ExperimentList`."""

    metrics: list[DefinitionView]
    after: str | UnsetType = UNSET


def definition_view(name: str, defined: Defined) -> DefinitionView:
    return DefinitionView(**_fields(name, defined))


def definition_uses(name: str, defined: Defined, uses: list[MetricUse]) -> DefinitionUses:
    return DefinitionUses(**_fields(name, defined), experiments=uses)


def metric_use(name: str, definition: MetricDefinition, record: Record) -> MetricUse | None:
    """How an experiment uses a metric; None if it has none of that name."""
    for metric in record.experiment.metrics:
        if metric.name == name:
            return MetricUse(record.experiment.id, record.status, definition.defines(metric))
    return None


def _fields(name: str, defined: Defined) -> dict[str, Any]:
    definition = defined.definition
    return {
        **{field: getattr(definition, field) for field in MetricDefinition.__struct_fields__},
        "name": name,
        "revision": defined.revision,
        "updated_at": rfc3339(defined.updated_ms),
        "updated_by": defined.who,
    }
