"""Ids of events: names from outside, kept in the store as hashes of 64 bits."""

from __future__ import annotations

from hashlib import blake2b

from bandit_serve.base._names import is_outside

MAX_EVENT_ID_BYTES = 128
EVENT_ID = f"expected 1 to {MAX_EVENT_ID_BYTES} bytes of UTF-8 without control characters"

NO_EVENT = 0
"""Hash of no event: of a plain reward."""


def is_event_id(text: str) -> bool:
    """Whether `text` has 1 to `MAX_EVENT_ID_BYTES` bytes of UTF-8 and no control character."""
    return is_outside(text) and len(text.encode()) <= MAX_EVENT_ID_BYTES


def hash_event(event_id: str) -> int:
    """Hash of an event's id, from 1 to 2⁶⁴ − 1 and the same in every worker: BLAKE2b-64, little-endian, and 1 for 0."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little") or NO_EVENT + 1
