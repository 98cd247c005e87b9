"""Features of contexts: the vector that contextual policies learn from, made of a context's values by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.policies.context import ContextField, context_errors

Value = float | int | str | bool
# Within which numbers are kept, in standard deviations where those are given: one wild value must not rule a model.
MAX_SCALED = 1e6


class Features:
    """Features of contexts with these fields, in this order:

    - an intercept, 1;
    - of a numeric field: (value - mean) / std, and whether it is missing;
    - of a categorical field: one for each value, or for each bucket into which values are hashed, and one for all
      other values and for none; it is 1 where it applies and 0 elsewhere;
    - of each named interaction of two fields: the products of their features.

    Nothing in a context is refused. A field that is not there or null is missing; a number that is no finite number
    and a value that is none of `values` are unknown: they count as missing and other. `missing` and `unknown` count
    them by field, and `unexpected` counts what has no field.

    A numeric field without `std` needs none: the policies' prior allows for the scale of each feature, and learns it
    where everything is learned, in the fold (`ContextualPolicy`, prior). A value far from 0 compared with how it
    varies, such as a year, should have its `mean` given: less is to be learned then.
    """

    def __init__(self, fields: Sequence[ContextField], most: int | None = None) -> None:
        """InvalidInput names what is wrong with the fields, or says that they have more than `most` features."""
        errors = context_errors(fields)
        if errors:
            raise InvalidInput(f"The context is not valid: {errors[0].at}: {errors[0].detail}.", errors)
        if most is not None and (n_features := n_features_of(fields)) > most:
            detail = f"expected at most {most} features in all, not {n_features}"
            raise InvalidInput(f"context: {detail}.", [FieldError("context", detail)])
        self.fields = tuple(fields)
        self.missing = dict.fromkeys((field.name for field in fields), 0)
        self.unknown = dict(self.missing)
        self.unexpected = 0
        places = places_of(fields)
        names = ["intercept", *(name for field in fields for name in feature_names(field))]
        self._pairs: list[tuple[slice, slice]] = []
        for name, other in interactions(fields):
            left, right = places[name], places[other]
            self._pairs.append((left, right))
            names += [f"{a} × {b}" for a in names[left] for b in names[right]]
        self._places = places
        self._n_plain = places[fields[-1].name].stop if fields else 1
        self._categories = {
            field.name: {value: i for i, value in enumerate(field.values)} for field in fields if field.values
        }
        self.names = tuple(names)

    @property
    def n_features(self) -> int:
        return len(self.names)

    @cached_property
    def numeric(self) -> tuple[dict[str, int], NDArray[np.bool_]]:
        """Indices of the numeric fields' values in a vector, by field; and bool (F,), whether they have a `std`."""
        fields = [field for field in self.fields if field.kind == "numeric"]
        places = {field.name: self._places[field.name].start for field in fields}
        return places, np.array([field.std is not None for field in fields], np.bool_)

    def vector(self, context: Mapping[str, Value | None]) -> NDArray[np.float32]:
        """Features of a context, float32 (n_features,)."""
        row = np.zeros(self.n_features, dtype=np.float32)
        row[0] = 1.0
        known = 0
        for field in self.fields:
            start = self._places[field.name].start
            value = context.get(field.name)
            known += field.name in context
            if field.kind == "numeric":
                number = self._number(field, value)
                if number is None:
                    row[start + 1] = 1.0
                else:
                    row[start] = number
            else:
                row[start + self._category(field, value)] = 1.0
        self.unexpected += len(context) - known
        at = self._n_plain
        for left, right in self._pairs:
            products = np.outer(row[left], row[right]).ravel()
            row[at : at + products.size] = products
            at += products.size
        return row

    def vectors(self, contexts: Sequence[Mapping[str, Value | None]]) -> NDArray[np.float32]:
        """Features of N contexts, float32 (N, n_features)."""
        rows = np.empty((len(contexts), self.n_features), dtype=np.float32)
        for row, context in zip(rows, contexts, strict=True):
            row[:] = self.vector(context)
        return rows

    def _number(self, field: ContextField, value: Value | None) -> float | None:
        if value is None:
            self.missing[field.name] += 1
            return None
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self.unknown[field.name] += 1
            return None
        scaled = (number - (field.mean or 0.0)) / (1.0 if field.std is None else field.std)
        return min(max(scaled, -MAX_SCALED), MAX_SCALED)

    def _category(self, field: ContextField, value: Value | None) -> int:
        """Index among the field's features; the last is that of missing and unknown values."""
        last = (len(field.values) if field.values is not None else field.buckets) or 0
        if value is None:
            self.missing[field.name] += 1
            return last
        text = written(value)
        if field.values is None:
            digest = blake2b(f"{field.name}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
            return int.from_bytes(digest, "little") % last
        place = self._categories[field.name].get(text)
        if place is None:
            self.unknown[field.name] += 1
            return last
        return place


def n_features_of(fields: Sequence[ContextField]) -> int:
    """Number of features of contexts with these fields, counted without making them. The fields have no errors."""
    widths = {field.name: _width(field) for field in fields}
    products = (widths[name] * widths[other] for name, other in interactions(fields))
    return 1 + sum(widths.values()) + sum(products)


def places_of(fields: Sequence[ContextField]) -> dict[str, slice]:
    """Places of each field's own features in a vector, by field. The fields have no errors."""
    places, start = {}, 1
    for field in fields:
        places[field.name] = slice(start, start + _width(field))
        start += _width(field)
    return places


def interactions(fields: Sequence[ContextField]) -> list[tuple[str, str]]:
    """Each pair of fields that is to interact, once: two fields that name each other have one interaction."""
    pairs: dict[tuple[str, str], None] = {}
    for field in fields:
        for other in field.interactions or ():
            if (other, field.name) not in pairs:
                pairs[field.name, other] = None
    return list(pairs)


def _width(field: ContextField) -> int:
    if field.kind == "numeric":
        return 2
    return 1 + (len(field.values) if field.values is not None else field.buckets or 0)


def feature_names(field: ContextField) -> list[str]:
    """Names of one field's features."""
    if field.kind == "numeric":
        return [field.name, f"{field.name} missing"]
    if field.values is not None:
        return [*(f"{field.name} = {value}" for value in field.values), f"{field.name} other"]
    return [*(f"{field.name} # {bucket}" for bucket in range(field.buckets or 0)), f"{field.name} missing"]


def written(value: Value) -> str:
    """Value as the name of a category: as JSON writes it, whole numbers without a fraction."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
