"""Repeated keys of JSON objects. Reading an object keeps only one of the values, so requests with such keys are
refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bandit_serve.errors import FieldError

DETAIL = "expected a key once: it is given twice"


class _Repeating(list[tuple[str, Any]]):
    """Entries of an object that has a key twice."""


def repeated_keys(body: bytes, within: str = "") -> list[FieldError]:
    """Paths of all keys in the JSON `body` that repeat one of the same object, each path once, below `within`."""
    try:
        # Numbers stay as they are written: they may be longer than Python reads.
        document = json.loads(body, object_pairs_hook=_entries, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return []
    return [FieldError(at, DETAIL) for at in dict.fromkeys(_places(document, within))]


def _entries(entries: list[tuple[str, Any]]) -> dict[str, Any] | _Repeating:
    mapping = dict(entries)
    return mapping if len(mapping) == len(entries) else _Repeating(entries)


def _places(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, dict | _Repeating):
        met = set()
        for name, each in value.items() if isinstance(value, dict) else value:
            place = f"{at}.{name[:60]}" if at else name[:60]
            if name in met:
                yield place
            met.add(name)
            yield from _places(each, place)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _places(each, f"{at}[{i}]")
