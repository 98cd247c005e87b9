"""What msgspec says of a value that the contract does not allow, as an error of ours that names the field."""

from __future__ import annotations

import re

import msgspec

from bandit_serve.durations import DURATION_PATTERN
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.names import NAME_PATTERN

# A pattern says to a program what it says to a person in these words.
IN_WORDS = {
    f"`str` matching regex {DURATION_PATTERN!r}": 'a duration such as "90s", "24h" or "7d"',
    f"`str` matching regex {NAME_PATTERN!r}": "a name: a letter or digit, then at most 127 letters, digits, . _ or -",
}
_at = re.compile(r" - at `(?P<path>[^`]*)`$")
# msgspec names the object around these two; the caller wants to know the field.
_lacks_or_has_more = re.compile(
    r"^Object (?:missing required|contains unknown) field `(?P<name>[^`.\[\]]{1,128})`"
)


def field_error(error: msgspec.ValidationError, within: str = "") -> FieldError:
    """Which field is wrong, as a path from `within` on, and what was expected there."""
    message = str(error)
    for pattern, words in IN_WORDS.items():
        message = message.replace(pattern, words)
    found = _at.search(message)
    path = found["path"].removeprefix("$") if found else ""
    named = _lacks_or_has_more.match(message)
    if named:
        path += f".{named['name']}"
    at = f"{within}{path}".removeprefix(".")
    return FieldError(at, message[: found.start()] if found else message)


def invalid(error: msgspec.ValidationError, within: str = "") -> InvalidInput:
    field = field_error(error, within)
    where = f"{field.at}: {field.detail}." if field.at else f"{field.detail}."
    return InvalidInput(where, [field])
