"""Names of two kinds, and their checks.

Names that users choose here, such as an experiment's, are short and safe in URLs. Names from outside, such as a unit or
an item, belong to the caller's data and may be almost any text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from bandit_serve.base._names import first_refused, is_outside
from bandit_serve.errors import FieldError, InvalidInput

# In Python a lone `$` also matches before a final newline. With the lookahead only the end matches, as in JSON Schema.
TEXT_END = r"$(?!\n)"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}" + TEXT_END
MAX_OUTSIDE_BYTES = 256
OUTSIDE = f"expected 1 to {MAX_OUTSIDE_BYTES} bytes of UTF-8 without control characters"

Name = Annotated[
    str, msgspec.Meta(pattern=NAME_PATTERN, description="letters, digits and . _ - ; at most 128")
]
# A name that is only looked up: one that breaks the pattern is reported as unknown, not as malformed.
GivenName = Annotated[str, msgspec.Meta(max_length=128, extra_json_schema={"pattern": NAME_PATTERN})]
# For the API description only: `check_outside` counts the bytes and words the refusal.
_OUTSIDE_SCHEMA = {
    "minLength": 1,
    "maxLength": MAX_OUTSIDE_BYTES,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
}
OutsideName = Annotated[
    str,
    msgspec.Meta(description=OUTSIDE.removeprefix("expected "), extra_json_schema=_OUTSIDE_SCHEMA),
]

_name = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Whether `text` matches `NAME_PATTERN`."""
    return _name.match(text) is not None


def check_outside(name: str, at: str) -> None:
    """Raises `InvalidInput` that names the field `at` unless `name` is a valid name from outside."""
    if not is_outside(name):
        raise InvalidInput(f"{at}: {OUTSIDE}.", [FieldError(at, OUTSIDE)])


def check_all_outside(names: Sequence[str], at: str) -> None:
    """As `check_outside` for each of `names`; the error names the first that is refused, as `at[i]`."""
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
