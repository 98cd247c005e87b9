"""News: what readers of many logs have found in one turn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import Offset


class News(NamedTuple):
    """New entries by owner, and the owners whose logs were read: of all others nothing is known.

    The reading of those that are `unbroken` began as soon as the one before it had ended, so none has missed anything.
    """

    entries: dict[str, list[Entry]]
    read: Collection[str]
    unbroken: Collection[str] = frozenset()


def entries_of(items: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Entry]:
    """Entries of a reply of redis-py's."""
    return [Entry(Offset.parse(at), *next(iter(fields.items()))) for at, fields in items]


def raw_entries_of(items: Sequence[Any]) -> list[Entry]:
    """Entries of a reply as the store sends it."""
    return [Entry(Offset.parse(at), fields[0], fields[1]) for at, fields in items]
