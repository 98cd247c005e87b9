"""Fields of a context, as they are configured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from bandit_serve.base.names import Name, repeated_names
from bandit_serve.errors import FieldError
from bandit_serve.metrics import MAX_VALUE

MAX_FEATURES = 512
# A field has two features or more, beside the intercept.
MAX_FIELDS = (MAX_FEATURES - 1) // 2
# Values or buckets of one categorical field.
MAX_CATEGORIES = 1_000
MAX_VALUE_CHARS = 256

# Asked of what comes in where an experiment is made: a log may hold longer ones.
Category = Annotated[str, Meta(extra_json_schema={"maxLength": MAX_VALUE_CHARS})]


class ContextField(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One field of the context, and how it becomes features: see `Features`.

    A categorical field has either its `values`, each a feature, or `buckets` into which any values are hashed. A
    numeric one is used as (value - mean) / std; `mean` is 0 and `std` 1 if not given. `interactions` names other
    fields: every product of a feature of this field and one of theirs is a feature, too.
    """

    name: Name
    kind: Literal["numeric", "categorical"]
    values: Annotated[list[Category], Meta(min_length=1, max_length=MAX_CATEGORIES)] | None = None
    buckets: Annotated[int, Meta(ge=1, le=MAX_CATEGORIES)] | None = None
    mean: Annotated[float, Meta(ge=-MAX_VALUE, le=MAX_VALUE)] | None = None
    std: Annotated[float, Meta(gt=0.0, le=MAX_VALUE)] | None = None
    interactions: Annotated[list[Name], Meta(max_length=MAX_FIELDS)] | None = None


def context_errors(fields: Sequence[ContextField]) -> list[FieldError]:
    """Errors of the fields of a context, beyond what their types check."""
    names = {field.name for field in fields}
    errors = repeated_names("context", [field.name for field in fields])
    for i, field in enumerate(fields):
        at = f"context[{i}]"
        if field.kind == "categorical":
            if (field.values is None) == (field.buckets is None):
                errors.append(FieldError(at, "a categorical field needs either values or buckets"))
            if field.values is not None and len(set(field.values)) < len(field.values):
                errors.append(FieldError(f"{at}.values", "expected every value once"))
            if field.mean is not None or field.std is not None:
                errors.append(FieldError(at, "only a numeric field takes mean and std"))
        elif field.values is not None or field.buckets is not None:
            errors.append(FieldError(at, "only a categorical field takes values and buckets"))
        met = {field.name}
        for j, other in enumerate(field.interactions or ()):
            if other not in names or other in met:
                errors.append(
                    FieldError(f"{at}.interactions[{j}]", f"expected another field, once, not {other!r}")
                )
            met.add(other)
    return errors
