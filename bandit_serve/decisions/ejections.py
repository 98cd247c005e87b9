"""Arms that one worker leaves out for a time, because their model failed in it.

The times are as in Envoy's outlier ejection: `FIRST_EJECTION_S` at first, then twice as long each time, up to
`MAX_EJECTION_S`. An arm that was not ejected for `MAX_EJECTION_S` starts anew.
"""

from __future__ import annotations

import math
from collections.abc import Set

FIRST_EJECTION_S = 5.0
MAX_EJECTION_S = 300.0


class Ejections:
    """Ejected arms of one experiment. Times are seconds of one monotonic clock. `count`: ejections so far."""

    def __init__(self) -> None:
        self.count = 0
        self._until_s: dict[int, float] = {}
        self._times: dict[int, int] = {}

    def eject(self, arm: int, among: Set[int], now_s: float) -> bool:
        """Ejects `arm` unless it is out already or the last of the arms `among`; returns whether it did."""
        out = self.out(now_s)
        if arm in out or not among - out - {arm}:
            return False
        if now_s >= self._until_s.get(arm, -math.inf) + MAX_EJECTION_S:
            self._times[arm] = 0
        self._until_s[arm] = now_s + min(FIRST_EJECTION_S * 2.0 ** min(self._times[arm], 16), MAX_EJECTION_S)
        self._times[arm] += 1
        self.count += 1
        return True

    def readmit(self, arm: int, now_s: float) -> bool:
        """Ends an arm's ejection; returns whether it was out."""
        was_out = arm in self.out(now_s)
        if was_out:
            self._until_s[arm] = now_s
        return was_out

    def out(self, now_s: float) -> frozenset[int]:
        """Arms that are out now."""
        return frozenset(arm for arm, until_s in self._until_s.items() if now_s < until_s)

    def next_back_s(self, now_s: float) -> float:
        """Time at which the first of them comes back; infinity if none is out."""
        return min((self._until_s[arm] for arm in self.out(now_s)), default=math.inf)
