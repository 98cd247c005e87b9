"""What a state of a former or a later build may hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bandit_serve.errors import UnreadableEntry


def known_only(state: Mapping[str, Any], names: Collection[str], what: str) -> None:
    """`UnreadableEntry` where a state has a part that this build does not know: half of it must not be taken over."""
    unknown = sorted(set(state) - set(names))
    if unknown:
        raise UnreadableEntry(f"A snapshot holds {what} with {unknown[0]!r}, which this build does not know.")
