"""The present, and times as callers see them: RFC 3339, UTC."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]
"""What says the time, in Unix milliseconds."""


def rfc3339(time_ms: int) -> str:
    return (
        datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def now_ms() -> int:
    """Unix time by this machine's clock."""
    return time.time_ns() // 1_000_000
