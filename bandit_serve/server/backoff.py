"""Pauses between the starts of what fails: longer each time, until it has run well."""

from __future__ import annotations

from collections.abc import Sequence

PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Backoff:
    def __init__(self, pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._pauses_s = pauses_s
        self._failures = 0

    def failed(self) -> float:
        """Counts a failure; returns the seconds to wait before the next start."""
        pause_s = self._pauses_s[min(self._failures, len(self._pauses_s) - 1)]
        self._failures += 1
        return pause_s

    def ran_well(self) -> None:
        self._failures = 0
