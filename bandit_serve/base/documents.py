"""Documents: JSON that callers give us to keep and hand back, such as a payload or a model's metadata."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

MAX_DOCUMENT_BYTES = 65_536
MAX_DOCUMENT_DEPTH = 64


def document_fault(document: Any) -> str | None:
    """Says what was expected of a document that can not be kept, or returns None for one that can.

    Documents are stored as MessagePack, whose integers have at most 64 bits. Nesting is bounded because the decoder
    recurses, possibly when our own call stack is already deep.
    """
    level: list[Any] = [document]
    for _ in range(MAX_DOCUMENT_DEPTH):
        if any(isinstance(value, int) and not -(2**63) <= value < 2**64 for value in level):
            return "expected whole numbers of at most 64 bits"
        level = [child for value in level for child in _children(value)]
    if level:
        return f"expected at most {MAX_DOCUMENT_DEPTH} levels"
    if len(msgspec.json.encode(document)) > MAX_DOCUMENT_BYTES:
        return f"expected at most {MAX_DOCUMENT_BYTES} bytes"
    return None


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
