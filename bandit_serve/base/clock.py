"""Current time, and times as callers see them: RFC 3339, in UTC."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], int]
"""Returns the current time in Unix milliseconds."""
_EPOCH = datetime.fromtimestamp(0, UTC)


def rfc3339(time_ms: int) -> str:
    """Unix milliseconds as `2026-01-31T12:00:00.000Z`."""
    return (
        datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def unix_ms(time: datetime) -> int:
    """Unix milliseconds of a time with a zone, rounded down."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def now_ms() -> int:
    """Unix milliseconds by this machine's clock."""
    return time.time_ns() // 1_000_000
