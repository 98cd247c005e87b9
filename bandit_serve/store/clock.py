"""The log's time, as one process knows it: what the store said last, carried on by a clock that nobody sets.

The log's time is the store's clock and a shift, which is 0 until that clock is found to have jumped. Then the workers'
own clocks say how long it has really been, and the shift takes up the jump (read_clock.lua), so that the log's time
runs evenly and never goes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from bandit_serve.log.times import CLOCK_TOLERANCE_MS

ESTABLISHED_MS = 5_000
"""How long a process has known the log's time when its own clock may correct the store's: longer than any worker that
lives stays silent, so one that has just come does not speak for those who know better.
"""
_MS = 1_000_000

# Nanoseconds on a clock that nobody sets and, where there is one, that goes on while the machine sleeps.
even_ns: Callable[[], int] = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic_ns
)


class LogClock:
    """`now_ms` is the log's time, Unix milliseconds, once it is `known`; before, this machine's clock.

    `shift_ms` is what the log's time is ahead of the store's clock, `offset_ms` what this machine's clock is.
    """

    def __init__(self) -> None:
        self.shift_ms = 0
        self.offset_ms = 0.0
        self._ahead_ns = time.time_ns() - even_ns()
        self._least_ms = 0
        self._heard_first_ns: int | None = None
        self.known = False

    @property
    def established(self) -> bool:
        since_ns = self._heard_first_ns
        return since_ns is not None and even_ns() - since_ns >= ESTABLISHED_MS * _MS

    def now_ms(self) -> int:
        now_ms = (even_ns() + self._ahead_ns) // _MS
        return now_ms if now_ms > self._least_ms else self._least_ms

    def hear(
        self, store_ms: int, shift_ms: int, sent_ns: int, received_ns: int, *, holds: bool = True
    ) -> int:
        """Takes over what the store said between two moments of `even_ns`; returns the log's time as it was then.

        What is known already stays as it is where the answer allows it, so that a slow answer spoils nothing. Where
        time would go back it stands still instead, unless that were for longer than `CLOCK_TOLERANCE_MS`.
        `holds` says whether the store is sure.
        """
        log_ms = store_ms + shift_ms
        least_ns, most_ns = log_ms * _MS - received_ns, (log_ms + 1) * _MS - sent_ns
        ahead_ns = min(max(self._ahead_ns, least_ns), most_ns)
        if self._heard_first_ns is None:
            self._heard_first_ns = received_ns
        else:
            before_ms = self.now_ms()
            back_ms = before_ms - (even_ns() + ahead_ns) // _MS
            self._least_ms = before_ms if back_ms <= CLOCK_TOLERANCE_MS else 0
        self._ahead_ns, self.shift_ms, self.known = ahead_ns, shift_ms, holds
        here_ns = time.time_ns() - even_ns() + (sent_ns + received_ns) // 2
        self.offset_ms = here_ns / _MS - store_ms
        return log_ms
