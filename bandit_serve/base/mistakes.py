"""Lists every mistake in a document, each with the field and what was expected there.

msgspec stops at the first mistake. So a document that it refuses is walked again, part by part.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from bandit_serve.errors import FieldError

MAX_MISTAKES = 100
MAX_LISTED = 40
MAX_WHOLE_NUMBER = 2**53
"""Largest magnitude at which every integer is a float: above it, 1e16 may not be the integer that was meant."""

ErrorWording = Callable[[msgspec.ValidationError, str], FieldError]


def nearest(name: str, known: Sequence[str]) -> str | None:
    """Returns the known name that a misspelt one is closest to, or None."""
    matches = get_close_matches(name.lower(), [each.lower() for each in known], 1, 0.65)
    return next((each for each in known if [each.lower()] == matches), None)


def expected_one_of(name: str, known: Sequence[str]) -> str:
    """Part of an error sentence: the names that are allowed, and the closest one as a guess."""
    meant = nearest(name, known)
    listed = ", ".join(known[:MAX_LISTED]) + (" …" if len(known) > MAX_LISTED else "")
    guess = "" if meant is None else f"did you mean {meant}? "
    return f"{guess}expected one of {listed}" if known else "expected nothing"


def mistakes(document: Any, kind: Any, say: ErrorWording, at: str = "") -> list[FieldError]:
    """Finds what keeps a document of JSON's types from being a `kind`: at most `MAX_MISTAKES` mistakes.

    Paths begin with `at`. `say` turns msgspec's error, and the path of the value, into the sentence for callers.
    """
    return list(islice(_mistakes(document, kind, say, at), MAX_MISTAKES))


def with_whole_numbers(document: Any, kind: Any) -> Any:
    """Copies the document with 3.0 turned into 3 wherever `kind` expects an integer."""
    if kind is Any:
        return document
    alternatives = _alternatives(kind)
    if isinstance(document, float):
        whole = int in alternatives and float not in alternatives and document.is_integer()
        return int(document) if whole and abs(document) <= MAX_WHOLE_NUMBER else document
    if isinstance(document, dict):
        kinds = _kinds_of_object(alternatives, document)
        return {name: with_whole_numbers(value, kinds.get(name, Any)) for name, value in document.items()}
    if isinstance(document, list):
        item = _item_kind(alternatives)
        return [with_whole_numbers(value, item) for value in document]
    return document


def _mistakes(value: Any, kind: Any, say: ErrorWording, at: str) -> Iterator[FieldError]:
    error = _refusal(value, kind)
    if error is None:
        return
    alternatives = _alternatives(kind)
    struct = _struct(alternatives)
    if struct is not None and isinstance(value, dict):
        yield from _in_struct(value, struct, say, at)
    elif isinstance(value, dict) and _is_within(error):
        kinds = _kinds_of_object(alternatives, value)
        for name, each in value.items():
            yield from _mistakes(each, kinds.get(name, Any), say, _joined(at, name))
    elif isinstance(value, list) and _is_within(error):
        item = _item_kind(alternatives)
        for i, each in enumerate(value):
            yield from _mistakes(each, item, say, f"{at}[{i}]")
    elif isinstance(value, str) and (allowed := _literals(alternatives)):
        yield FieldError(at, f"{expected_one_of(value, allowed)}, not {value[:60]!r}")
    else:
        yield FieldError(at, say(error, at).detail)


def _in_struct(
    value: dict[str, Any], struct: type[Struct], say: ErrorWording, at: str
) -> Iterator[FieldError]:
    fields = _fields(struct)
    for name in value:
        if name not in fields and struct.__struct_config__.forbid_unknown_fields:
            there = name[:60]
            yield FieldError(
                _joined(at, there), f"unknown field `{there}`: {expected_one_of(name, list(fields))}"
            )
    before = None
    for name, field in fields.items():
        if name in value:
            for before in _mistakes(value[name], field.type, say, _joined(at, name)):
                yield before
        elif field.required:
            before = FieldError(_joined(at, name), f"missing required field `{name}`")
            yield before
    if before is None and set(value) <= set(fields):
        refusal = _refusal(value, struct)
        if refusal is not None:
            yield say(refusal, at)


@cache
def _fields(struct: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    """Fields by the name that they have in a document."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def _joined(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _refusal(value: Any, kind: Any) -> msgspec.ValidationError | None:
    if kind is Any or kind is Raw:
        return None
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return error
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    return None


def _is_within(error: msgspec.ValidationError) -> bool:
    """Whether the error is about a part of the value, not about the value itself."""
    return " - at `" in str(error)


@cache
def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, without `Annotated`; a type that is no union is its only member."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(each for alternative in get_args(kind) for each in _alternatives(alternative))
    return (kind,)


def _struct(alternatives: Sequence[Any]) -> type[Struct] | None:
    for each in alternatives:
        if isinstance(each, type) and issubclass(each, Struct) and not each.__struct_config__.array_like:
            return each
    return None


def _kinds_of_object(alternatives: Sequence[Any], value: dict[str, Any]) -> dict[str, Any]:
    """The type that is expected of each key of an object."""
    struct = _struct(alternatives)
    if struct is not None:
        return {name: field.type for name, field in _fields(struct).items()}
    for each in alternatives:
        if get_origin(each) is dict:
            return dict.fromkeys(value, get_args(each)[1])
    return {}


def _item_kind(alternatives: Sequence[Any]) -> Any:
    for each in alternatives:
        if get_origin(each) in (list, tuple):
            return get_args(each)[0]
    return Any


def _literals(alternatives: Sequence[Any]) -> list[str]:
    return [
        value
        for each in alternatives
        if get_origin(each) is Literal
        for value in get_args(each)
        if isinstance(value, str)
    ]
