"""Routes of metrics that experiments may name."""

from __future__ import annotations

from bandit_serve.api.definitions import DefinitionList, DefinitionUses, DefinitionView
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.server.page import PAGE
from bandit_serve.server.route import Route

# A description of 4,000 characters, of which each may be written as twelve.
DEFINITION_BYTES = 64 * 1024

DEFINITIONS: tuple[Route, ...] = (
    Route(
        "GET",
        "/v1/metrics",
        "definitions.list_all",
        "The catalogue of metrics, or a page of it.",
        "read",
        answers=DefinitionList,
        query=PAGE,
        refuses=(413,),
        operation="listDefinitions",
    ),
    Route(
        "GET",
        "/v1/metrics/{metric}",
        "definitions.show",
        "What a metric is, and which experiments have one of its name.",
        "read",
        answers=DefinitionUses,
        etag=True,
        operation="getDefinition",
    ),
    Route(
        "PUT",
        "/v1/metrics/{metric}",
        "definitions.define",
        "Defines a metric in the catalogue; experiments that have it stay as they are.",
        "admin",
        MetricDefinition,
        DefinitionView,
        refuses=(409, 412),
        makes=True,
        max_body=DEFINITION_BYTES,
        operation="defineMetric",
    ),
    Route(
        "DELETE",
        "/v1/metrics/{metric}",
        "definitions.remove",
        "Takes a metric out of the catalogue; experiments that have it stay as they are.",
        "admin",
        status=204,
        refuses=(404, 409, 412),
        operation="removeDefinition",
    ),
)
