"""What msgspec says of a value that the contract does not allow, as an error of ours that names the field."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from bandit_serve.base.durations import DURATION_PATTERN
from bandit_serve.base.mistakes import mistakes, with_whole_numbers
from bandit_serve.base.names import NAME_PATTERN
from bandit_serve.errors import FieldError, InvalidInput

T = TypeVar("T")

FindMistakes = Callable[[Any], list[FieldError]]
"""Finds all that is wrong with a document, beyond its types, too."""

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


def convert_or_explain(
    document: Any,
    kind: type[T],
    error: msgspec.ValidationError,
    within: str = "",
    max_mistakes: int | None = None,
    find_mistakes: FindMistakes | None = None,
) -> T:
    """Converts a document that msgspec has refused: whole numbers may be written like 3.0.

    Raises `InvalidInput` with every mistake that `find_mistakes` finds, by default those of the types. It names only
    the first where `max_mistakes` is 1, or where MessagePack has brought values that JSON has no type for: bytes,
    times, keys that are not text.
    """
    document = with_whole_numbers(document, kind)
    try:
        content = msgspec.json.encode(document)
        if msgspec.json.decode(content) != document:
            raise invalid(error, within)
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as still:
        error = still
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise invalid(error, within) from None
    if find_mistakes is None:
        find_mistakes = partial(mistakes, kind=kind, say=field_error, at=within)
    found = [] if max_mistakes == 1 else find_mistakes(document)
    if not found:
        raise invalid(error, within)
    met_first = field_error(error, within).at
    raise as_invalid_input(sorted(found, key=lambda mistake: mistake.at != met_first))


def as_invalid_input(found: Sequence[FieldError]) -> InvalidInput:
    """All that is wrong as one error, whose sentence has the first."""
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return InvalidInput(f"{first.at}: {first.detail}{more}." if first.at else f"{first.detail}{more}.", found)


def invalid(error: msgspec.ValidationError, within: str = "") -> InvalidInput:
    field = field_error(error, within)
    where = f"{field.at}: {field.detail}." if field.at else f"{field.detail}."
    return InvalidInput(where, [field])
