"""Finite numbers of a report, which writes null for others."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> float | None:
    """Number as a float; None if it is infinite or none."""
    return float(value) if math.isfinite(value) else None
