"""Traffic of an experiment: its exposures, and what of them was analysed, by day of the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DAY_MS = 86_400_000
MAX_DAYS = 8
"""Days whose beginnings are kept: the rate is that of the last week, and of today so far."""
MIN_SPAN_MS = 60_000
"""Time from which a rate is known."""


@dataclass
class Traffic:
    """Totals at the first exposure of each of the last days.

    since_ms, exposures, analysed: int64 (D,), the time of that exposure, and how many decisions had been exposed, and
    values of the objective analysed, before it. D = 0 before the first exposure.
    """

    since_ms: NDArray[np.int64]
    exposures: NDArray[np.int64]
    analysed: NDArray[np.int64]

    @classmethod
    def none(cls) -> Traffic:
        return cls(*(np.zeros(0, np.int64) for _ in range(3)))

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]]) -> Traffic:
        """Traffic whose columns these are; `ValueError` for what it can not have noted."""
        traffic = cls(**state)
        columns = traffic.since_ms, traffic.exposures, traffic.analysed
        if any(column.dtype != np.int64 or column.shape != columns[0].shape for column in columns):
            raise ValueError("the days of the traffic are no columns of whole numbers")
        if columns[0].ndim != 1 or not 1 <= len(columns[0]) <= MAX_DAYS:
            raise ValueError(f"the traffic has no day, or more than {MAX_DAYS}")
        if (np.diff(traffic.since_ms // DAY_MS) <= 0).any() or (traffic.exposures < 0).any():
            raise ValueError("the days of the traffic are out of order")
        return traffic

    def begins_day(self, time_ms: int) -> bool:
        """Return whether an exposure at this time is the first of its day."""
        return len(self.since_ms) == 0 or time_ms // DAY_MS > int(self.since_ms[-1]) // DAY_MS

    def note(self, time_ms: int, exposures: int, analysed: int) -> None:
        """Notes the totals before the first exposure of a day."""
        for name, value in (("since_ms", time_ms), ("exposures", exposures), ("analysed", analysed)):
            setattr(self, name, np.append(getattr(self, name), np.int64(value))[-MAX_DAYS:])

    def a_day(self, now_ms: int, exposures: int, analysed: int) -> float | None:
        """Values analysed a day over the last week, given the totals now; exposures where none has been analysed yet.

        None before there has been a minute of traffic, or where nothing came in that week.
        """
        week = np.flatnonzero(self.since_ms >= now_ms - 7 * DAY_MS)
        if not len(week) or now_ms - int(self.since_ms[week[0]]) < MIN_SPAN_MS:
            return None
        first = int(week[0])
        came = exposures - int(self.exposures[first])
        if analysed > 0:
            came = analysed - int(self.analysed[first])
        return came * DAY_MS / (now_ms - int(self.since_ms[first])) if came > 0 else None
