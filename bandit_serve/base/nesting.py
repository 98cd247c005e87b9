"""Nesting of documents: bounded where they are read, as most of what is done with them recurses.

The checks do not recurse, so they hold for any document, one that is within itself included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from bandit_serve.errors import FieldError

MAX_LEVELS = 100
"""Lists and objects within each other in a document that somebody sends or writes."""
TOO_DEEP = f"expected at most {MAX_LEVELS} levels of lists and objects within each other"

_PLACE_STEPS = 3
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{\]}]', re.DOTALL)
_CLOSING = {ord("["): b"]", ord("{"): b"}"}


def nesting_error(document: Any, within: str = "") -> FieldError | None:
    """Error of a document of more than `MAX_LEVELS` levels, at the outermost steps down; None if it has less.

    What is in a document twice, as YAML allows, is walked once a level.
    """
    level = {id(document): (within, document)} if _holds(document) else {}
    for depth in range(MAX_LEVELS):
        below: dict[int, tuple[str, Any]] = {}
        for at, holder in level.values():
            for step, each in _entries(holder):
                if _holds(each):
                    below.setdefault(id(each), (at + step if depth < _PLACE_STEPS else at, each))
        level = below
        if not level:
            return None
    at, _ = next(iter(level.values()))
    return FieldError(at.removeprefix("."), TOO_DEEP)


def nesting_error_of_json(content: bytes, within: str = "") -> FieldError | None:
    """Error of a JSON text as `nesting_error` gives it, before the text is decoded; None if it has fewer levels."""
    if content.count(b"[") + content.count(b"{") <= MAX_LEVELS:
        return None
    closing: list[bytes] = []
    for token in _STRING_OR_BRACKET.finditer(content):
        first = content[token.start()]
        if first in _CLOSING:
            closing.append(_CLOSING[first])
            if len(closing) > MAX_LEVELS:
                return _error_of_beginning(content[: token.end()], closing, within)
        elif first in b"]}" and closing:
            closing.pop()
    return None


def _error_of_beginning(content: bytes, closing: list[bytes], within: str) -> FieldError:
    """Error of a text that is closed after its first bracket too many; its place is `within` where that is no JSON."""
    try:
        document = json.loads(content + b"".join(reversed(closing)), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        document = None
    return nesting_error(document, within) or FieldError(within, TOO_DEEP)


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list | tuple)


def _entries(holder: Any) -> Iterable[tuple[str, Any]]:
    """Steps into an object or a list, as paths have them, and what is there."""
    if isinstance(holder, dict):
        return ((f".{name!s:.60}", each) for name, each in holder.items())
    return ((f"[{i}]", each) for i, each in enumerate(holder))
