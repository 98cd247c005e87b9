"""Log time in one process: the store's last answer, carried on by a monotonic clock.

Log time is the store's clock plus a shift. The shift is 0 until the store's clock jumps. Then the workers' monotonic
clocks say how much time has really passed, and the shift takes up the jump (read_clock.lua). So log time runs evenly
and never goes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from bandit_serve.log.times import CLOCK_TOLERANCE_MS

ESTABLISHED_MS = 5_000
"""How long a process must have known log time before its clock may correct the store's.

It is longer than a live worker ever stays silent, so a new process does not overrule workers that know better.
"""
_MS = 1_000_000

# Nanoseconds of a monotonic clock: where the system has one, of a clock that goes on while the machine sleeps.
even_ns: Callable[[], int] = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic_ns
)


class LogClock:
    """Clock of log time. `now_ms` is log time in Unix milliseconds once it is `known`; until then this machine's clock.

    `shift_ms` is log time minus the store's clock; `offset_ms` is this machine's clock minus the store's.
    """

    def __init__(self) -> None:
        self.shift_ms = 0
        self.offset_ms = 0.0
        self._ahead_ns = time.time_ns() - even_ns()
        self._min_ms = 0
        self._first_adjusted_ns: int | None = None
        self.known = False

    @property
    def established(self) -> bool:
        """Whether log time has been known for long enough to correct the store's clock."""
        since_ns = self._first_adjusted_ns
        return since_ns is not None and even_ns() - since_ns >= ESTABLISHED_MS * _MS

    def now_ms(self) -> int:
        now_ms = (even_ns() + self._ahead_ns) // _MS
        return now_ms if now_ms > self._min_ms else self._min_ms

    def adjust(
        self, store_ms: int, shift_ms: int, sent_ns: int, received_ns: int, *, holds: bool = True
    ) -> int:
        """Adjusts log time to an answer of the store; returns log time as of that answer.

        The answer was made between `sent_ns` and `received_ns` of `even_ns`. Log time and the offset move only as far
        as that interval requires, so a slow answer does no harm. Instead of going back, log time stands still,
        unless that would take longer than `CLOCK_TOLERANCE_MS`. `holds` says whether the store is sure of its answer.
        """
        log_ms = store_ms + shift_ms
        min_ns, max_ns = log_ms * _MS - received_ns, (log_ms + 1) * _MS - sent_ns
        ahead_ns = min(max(self._ahead_ns, min_ns), max_ns)
        if self._first_adjusted_ns is None:
            self._first_adjusted_ns = received_ns
        else:
            before_ms = self.now_ms()
            back_ms = before_ms - (even_ns() + ahead_ns) // _MS
            self._min_ms = before_ms if back_ms <= CLOCK_TOLERANCE_MS else 0
        self._ahead_ns, self.shift_ms, self.known = ahead_ns, shift_ms, holds
        here_ns = time.time_ns() - even_ns()
        least_ms, most_ms = (
            (here_ns + sent_ns) / _MS - (store_ms + 1),
            (here_ns + received_ns) / _MS - store_ms,
        )
        self.offset_ms = min(max(self.offset_ms, least_ms), most_ms)
        return log_ms
