"""Metric that an experiment only names: what it is stands in the catalogue, and is copied from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from bandit_serve.base.filled import Filled
from bandit_serve.base.mistakes import nearest
from bandit_serve.base.names import Name
from bandit_serve.errors import FieldError
from bandit_serve.experiments.definition import DEFINED, MetricDefinition
from bandit_serve.experiments.metric import DeclaredOnHarm, Margin, Role
from bandit_serve.experiments.spec import MAX_METRICS

Definitions = Mapping[str, MetricDefinition]
MAX_GUESSED_AMONG = 100
"""Names in the catalogue up to which one that is not there is compared with all of them."""


class NamedMetric(Struct, frozen=True, forbid_unknown_fields=True):
    """A metric as the catalogue defines it when the request comes, and its part in the experiment."""

    name: Name
    role: Role | None = None
    margin: Margin | UnsetType = UNSET
    on_harm: DeclaredOnHarm | UnsetType = UNSET


_UNREADABLE = (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_items = msgspec.json.Decoder(list[Raw]).decode
_name = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class _FilledMetric(NamedTuple):
    content: Raw
    errors: list[FieldError]
    changed: bool


def filled_experiment(body: bytes, definitions: Definitions) -> Filled:
    """Experiment in JSON, with the definitions of the metrics that it only names."""
    try:
        document = _fields(body)
        metrics = _items(document["metrics"])
    except _UNREADABLE:
        return Filled(body)
    if len(metrics) > MAX_METRICS:
        return Filled(body)
    filled: list[_FilledMetric] = []
    errors: list[FieldError] = []
    for i, metric in enumerate(metrics):
        # A guess takes milliseconds, so that only the first mistake may have one.
        filled.append(_filled(metric, definitions, f"metrics[{i}].", guess=not errors))
        errors += filled[-1].errors
    if not any(each.changed for each in filled):
        return Filled(body, errors)
    document["metrics"] = Raw(_encode([each.content for each in filled]))
    return Filled(_encode(document), errors)


def filled_metric(body: bytes, definitions: Definitions) -> Filled:
    """Metric in JSON, with its definition if it is only named."""
    filled = _filled(Raw(body), definitions, "", guess=True)
    return Filled(bytes(filled.content) if filled.changed else body, filled.errors)


def _filled(content: Raw, definitions: Definitions, within: str, guess: bool) -> _FilledMetric:
    try:
        fields = _fields(content)
        if "kind" in fields:
            return _FilledMetric(content, [], False)
        name = _name(fields["name"])
    except _UNREADABLE:
        return _FilledMetric(content, [], False)
    definition = definitions.get(name)
    if definition is None:
        detail = _unknown(name, definitions if guess else {})
        return _FilledMetric(content, [FieldError(f"{within}kind", detail)], False)
    beside = [field for field in DEFINED if field in fields]
    detail = (
        f"leave it out, as {name} is what the catalogue says; or give a kind, too, for a metric of your own"
    )
    errors = [FieldError(f"{within}{field}", detail) for field in beside]
    own = {field: value for field, value in fields.items() if field not in beside}
    values = {field: getattr(definition, field) for field in DEFINED}
    defined = {
        field: Raw(_encode(value))
        for field, value in values.items()
        if value is not None and value is not UNSET
    }
    return _FilledMetric(Raw(_encode({**own, **defined})), errors, True)


def _unknown(name: str, definitions: Definitions) -> str:
    shown = name[:128]
    meant = nearest(shown, list(definitions)) if len(definitions) <= MAX_GUESSED_AMONG else None
    guess = "" if meant is None else f"did you mean {meant}? "
    return (
        f"{guess}expected a kind, as the catalogue has no metric {shown!r}: give one here, or define the metric with "
        "PUT /v1/metrics/{name} or bandit-serve metrics define"
    )
