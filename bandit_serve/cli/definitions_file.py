"""Definitions of metrics in files (TOML, JSON or YAML), written by hand or printed by `metrics list` and `show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bandit_serve.api.definitions import DefinitionUses
from bandit_serve.base.names import Name
from bandit_serve.base.validation import convert_or_explain
from bandit_serve.cli.described import as_json, read_listed, within
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.definition import MetricDefinition, checked


class NamedDefinition(MetricDefinition, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Definition in a file, with the name of the metric."""

    name: Name


# What is only told of a definition, and is not its own.
TOLD = frozenset(DefinitionUses.__struct_fields__) - frozenset(NamedDefinition.__struct_fields__)


def read_definitions(*paths: Path) -> dict[str, MetricDefinition]:
    """Reads the definitions of files, by the names of the metrics. Raises `InvalidInput` with every mistake."""
    definitions: dict[str, MetricDefinition] = {}
    errors = []
    for path in paths:
        for at, document in read_listed(path, "metrics"):
            place = f"{path}: {at}" if len(paths) > 1 else at
            try:
                name, definition = _definition(document)
                if name in definitions:
                    detail = f"the metric {name!r} is defined twice"
                    raise InvalidInput(f"{detail}.", [FieldError("name", detail)])
                definitions[name] = definition
            except InvalidInput as error:
                errors += within(place, error)
    if errors:
        raise InvalidInput("Nothing was defined, as there are mistakes.", errors)
    return definitions


def _definition(document: Any) -> tuple[str, MetricDefinition]:
    content = as_json(_as_written(document))
    try:
        named = msgspec.json.decode(content, type=NamedDefinition)
    except msgspec.ValidationError as error:
        named = convert_or_explain(msgspec.json.decode(content), NamedDefinition, error)
    fields = {name: getattr(named, name) for name in MetricDefinition.__struct_fields__}
    return named.name, checked(named.name, MetricDefinition(**fields))


def _as_written(document: Any) -> Any:
    """Removes what `metrics show` adds to a definition."""
    if not isinstance(document, dict) or not {"revision", "updated_at"} <= document.keys():
        return document
    return {name: value for name, value in document.items() if name not in TOLD}
