"""The two kinds of names: those that we give, and those that come from outside."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from bandit_serve.base._names import first_refused, is_outside
from bandit_serve.errors import FieldError, InvalidInput

# In Python a `$` alone also matches before a final newline; with what follows it, it does not, here and in JSON Schema.
TEXT_END = r"$(?!\n)"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}" + TEXT_END
OUTSIDE = "expected 1 to 256 bytes of UTF-8 without control characters"

Name = Annotated[
    str, msgspec.Meta(pattern=NAME_PATTERN, description="letters, digits and . _ - ; at most 128")
]
# The name of something that is looked up among few, where it is not found if it is none.
GivenName = Annotated[str, msgspec.Meta(max_length=128, extra_json_schema={"pattern": NAME_PATTERN})]
# For descriptions only: bytes are counted, and refusals worded, by `check_outside`.
_OUTSIDE_SCHEMA = {"minLength": 1, "maxLength": 256, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
OutsideName = Annotated[
    str,
    msgspec.Meta(
        description="1 to 256 bytes of UTF-8 without control characters", extra_json_schema=_OUTSIDE_SCHEMA
    ),
]

_name = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    return _name.match(text) is not None


def check_outside(name: str, at: str) -> None:
    """`InvalidInput` that names the field `at` unless `name` may come from outside."""
    if not is_outside(name):
        raise InvalidInput(f"{at}: {OUTSIDE}.", [FieldError(at, OUTSIDE)])


def check_all_outside(names: Sequence[str], at: str) -> None:
    refused = first_refused(names)
    if refused >= 0:
        where = f"{at}[{refused}]"
        raise InvalidInput(f"{where}: {OUTSIDE}.", [FieldError(where, OUTSIDE)])


def repeated_names(at: str, names: Sequence[str]) -> list[FieldError]:
    """An error for each name that an earlier one of the list `at` has."""
    errors = []
    met: set[str] = set()
    for i, name in enumerate(names):
        if name in met:
            errors.append(FieldError(f"{at}[{i}].name", f"the name {name!r} is taken"))
        met.add(name)
    return errors
