"""Dimensions of an experiment: context fields by whose values its results are split into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import FieldError
from bandit_serve.policies.context import ContextField
from bandit_serve.policies.features import places_of

MAX_DIMENSIONS = 8
MAX_SEGMENT_VALUES = 20
"""Values of a field that are segments of their own, the first ones of its schema; all others are one segment."""
MAX_CELLS = 2**16
"""Segments of all dimensions together, times metrics, times arms: 16 MiB of sums, and as much in an answer."""

SegmentKind = Literal["value", "rest", "unknown"]


class Segment(NamedTuple):
    """Part of an experiment's decisions. `value` is that of the field, None for the `rest` of its values and for what
    is `unknown`: a value that is missing, or that the schema does not know.
    """

    value: str | None
    kind: SegmentKind


@dataclass(frozen=True)
class Dimension:
    """Categorical field with values, and where its features begin in the vector of a context."""

    field: ContextField
    start: int

    @property
    def name(self) -> str:
        return self.field.name

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Segments by code: of the first values, of the rest if there are more, of what is unknown."""
        return segments_of(self.field)

    def codes(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Codes of segments, int64 (n,), of decisions with the features `x`, float32 (n, d)."""
        n_values = len(self.field.values or ())
        own = x[:, self.start : self.start + n_values]
        category = np.where(own.any(axis=1), own.argmax(axis=1), n_values)
        last = len(self.segments) - 1
        return np.where(category == n_values, last, np.minimum(category, MAX_SEGMENT_VALUES)).astype(np.int64)


def segments_of(field: ContextField) -> tuple[Segment, ...]:
    values = field.values or []
    rest = [Segment(None, "rest")] if len(values) > MAX_SEGMENT_VALUES else []
    return (
        *(Segment(value, "value") for value in values[:MAX_SEGMENT_VALUES]),
        *rest,
        Segment(None, "unknown"),
    )


def dimensions_of(fields: Sequence[ContextField], names: Sequence[str]) -> tuple[Dimension, ...]:
    """Dimensions with these names, in that order; names of no field are passed over."""
    places, by_name = places_of(fields), {field.name: field for field in fields}
    return tuple(Dimension(by_name[name], places[name].start) for name in names if name in by_name)


def dimension_fault(fields: Sequence[ContextField], name: str) -> str | None:
    """Reason why results can not be split by a field of this name; None if they can."""
    field = next((field for field in fields if field.name == name), None)
    if field is not None and field.kind == "categorical" and field.buckets is None:
        return None
    named = [field.name for field in fields if field.values is not None]
    if not named:
        return "expected a categorical context field with values, and this experiment has none"
    return f"expected a categorical context field with values: {', '.join(named[:10])}"


def dimension_errors(
    fields: Sequence[ContextField], names: Sequence[str], n_metrics: int, n_arms: int
) -> list[FieldError]:
    """Errors of `dimensions`, given the context's fields and the numbers of metrics and arms."""
    errors = []
    for i, name in enumerate(names):
        fault = "expected each field once" if name in names[:i] else dimension_fault(fields, name)
        if fault is not None:
            errors.append(FieldError(f"dimensions[{i}]", fault))
    if not errors and (detail := too_many_cells(fields, names, n_metrics, n_arms)):
        errors.append(FieldError("dimensions", detail))
    return errors


def too_many_cells(
    fields: Sequence[ContextField], names: Sequence[str], n_metrics: int, n_arms: int
) -> str | None:
    """Reason why so many sums are not kept; None if they are."""
    n_segments = sum(len(segments_of(field)) for field in fields if field.name in names)
    if n_segments * n_metrics * n_arms <= MAX_CELLS:
        return None
    return f"expected at most {MAX_CELLS} segments times metrics times arms, not {n_segments * n_metrics * n_arms}"
