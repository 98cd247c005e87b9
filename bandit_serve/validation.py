"""What msgspec says of a value that the contract does not allow, as an error of ours that names the field."""

from __future__ import annotations

import re

import msgspec

from bandit_serve.errors import FieldError, InvalidInput

_at = re.compile(r" - at `(?P<path>[^`]*)`$")


def field_error(error: msgspec.ValidationError, within: str = "") -> FieldError:
    """Which field is wrong, as a path from `within` on, and what was expected there."""
    message = str(error)
    found = _at.search(message)
    path = found["path"].removeprefix("$") if found else ""
    at = f"{within}{path}".removeprefix(".")
    return FieldError(at, message[: found.start()] if found else message)


def invalid(error: msgspec.ValidationError) -> InvalidInput:
    field = field_error(error)
    where = f"{field.at}: {field.detail}." if field.at else f"{field.detail}."
    return InvalidInput(where, [field])
