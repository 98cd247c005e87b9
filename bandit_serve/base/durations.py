"""Durations as they are written: `"50ms"`, `"90s"`, `"15m"`, `"24h"`, `"7d"`."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from bandit_serve.base.names import TEXT_END
from bandit_serve.errors import InvalidInput

_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h|d)" + TEXT_END
Duration = Annotated[
    str, Meta(pattern=DURATION_PATTERN, description='a duration such as "90s", "24h" or "7d"')
]
_duration = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")


def parse_duration_ms(text: str) -> int:
    """Milliseconds in `text`, rounded; `InvalidInput` for anything that is not a number and a unit."""
    match = _duration.fullmatch(text)
    if match is None:
        raise InvalidInput(f'expected a duration like "90s", "24h" or "7d", not {text[:40]!r}')
    return round(float(match[1]) * _MS[match[2]])
