"""Conversion of msgspec's validation errors into `InvalidInput`, which names the field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import msgspec

from bandit_serve.base.durations import DURATION_PATTERN
from bandit_serve.base.mistakes import mistakes, with_whole_numbers
from bandit_serve.base.names import NAME_PATTERN
from bandit_serve.errors import FieldError, InvalidInput

T = TypeVar("T")


class FieldMistake(ValueError):
    """Mistake of the field `at` that a `__post_init__` finds; msgspec makes a `ValidationError` of it."""

    def __init__(self, at: str, detail: str) -> None:
        super().__init__(detail)
        self.at = at


FindMistakes = Callable[[Any], list[FieldError]]
"""Finds all mistakes in a document, those beyond its types included."""

# Words for people, in place of the patterns that msgspec quotes.
IN_WORDS = {
    f"`str` matching regex {DURATION_PATTERN!r}": 'a duration such as "90s", "24h" or "7d"',
    f"`str` matching regex {NAME_PATTERN!r}": "a name: a letter or digit, then at most 127 letters, digits, . _ or -",
}
_at = re.compile(r" - at `(?P<path>[^`]*)`$")
# For these two errors msgspec's path ends at the object; we add the field.
_lacks_or_has_more = re.compile(
    r"^Object (?:missing required|contains unknown) field `(?P<name>[^`.\[\]]{1,128})`"
)


def field_error(error: msgspec.ValidationError, within: str = "") -> FieldError:
    """The path of the wrong field, prefixed by `within`, and what was expected there."""
    message = str(error)
    for pattern, words in IN_WORDS.items():
        message = message.replace(pattern, words)
    place = _at.search(message)
    path = place["path"].removeprefix("$") if place else ""
    named = _lacks_or_has_more.match(message)
    if named:
        path += f".{named['name']}"
    elif isinstance(error.__cause__, FieldMistake):
        path += f".{error.__cause__.at}"
    at = f"{within}{path}".removeprefix(".")
    return FieldError(at, message[: place.start()] if place else message)


def convert_or_explain(
    document: Any,
    kind: type[T],
    error: msgspec.ValidationError,
    within: str = "",
    max_mistakes: int | None = None,
    find_mistakes: FindMistakes | None = None,
    others: Sequence[FieldError] = (),
) -> T:
    """Converts a document that msgspec has refused: whole numbers may be written like 3.0.

    Raises `InvalidInput` with every mistake that `find_mistakes` finds, by default those of the types. It names only
    the first where `max_mistakes` is 1, or where MessagePack has brought values that JSON has no type for: bytes,
    times, keys that are not text.

    others: mistakes that are known already, for which it is refused in any case. They stand in for what is found in
    their places.
    """
    document = with_whole_numbers(document, kind)
    try:
        content = msgspec.json.encode(document)
        if msgspec.json.decode(content) != document:
            raise invalid(error, within)
        converted = msgspec.json.decode(content, type=kind)
        if not others:
            return converted
    except msgspec.ValidationError as still:
        error = still
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise invalid(error, within) from None
    if find_mistakes is None:
        find_mistakes = partial(mistakes, kind=kind, say=field_error, at=within)
    told = {mistake.at for mistake in others}
    found = [] if max_mistakes == 1 else find_mistakes(document)
    all_mistakes = [*others, *(mistake for mistake in found if mistake.at not in told)]
    if not all_mistakes:
        raise invalid(error, within)
    first_at = field_error(error, within).at
    raise as_invalid_input(sorted(all_mistakes, key=lambda mistake: mistake.at != first_at))


@contextmanager
def of_part(place: str) -> Iterator[None]:
    """Makes mistakes in the part of a document at `place` those of a body that is this part alone.

    Mistakes elsewhere in the document keep their places.
    """
    try:
        yield
    except InvalidInput as error:
        if not error.errors:
            raise
        inner = (f"{place}.", f"{place}[")
        errors = [
            FieldError(each.at[len(place) :].removeprefix("."), each.detail)
            if each.at == place or each.at.startswith(inner)
            else each
            for each in error.errors
        ]
        raise as_invalid_input(errors) from None


def as_invalid_input(errors: Sequence[FieldError]) -> InvalidInput:
    """One error for all of `errors`, at least one; its sentence names the first."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidInput(
        f"{first.at}: {first.detail}{more}." if first.at else f"{first.detail}{more}.", errors
    )


def invalid(error: msgspec.ValidationError, within: str = "") -> InvalidInput:
    """`InvalidInput` for msgspec's error alone."""
    field = field_error(error, within)
    where = f"{field.at}: {field.detail}." if field.at else f"{field.detail}."
    return InvalidInput(where, [field])
