"""Attempts of one call: which failures are tried again, after which pause, and until when."""

from __future__ import annotations

import enum
import random
import time

from bandit_serve_client.errors import ClientError, NoAnswer, NotConnected, TimedOut, Unavailable

MIN_PAUSE_S = 0.05
MAX_PAUSE_S = 2.0


class Repeat(enum.Enum):
    """Rule of what may be sent again. Nothing is against a call that was never sent.

    ALWAYS: reads, and rewards, which count once however often they come. NOT_BEGUN: decisions and changes, after a 503
    of this type alone. After another, or a broken connection, a decision may have been made, and a second one would be
    an exposure that nobody sees; a change may have been made, and the same again would be refused.
    """

    ALWAYS = enum.auto()
    NOT_BEGUN = enum.auto()
    NEVER = enum.auto()

    def allows(self, error: ClientError) -> bool:
        if self is Repeat.NEVER:
            return False
        if isinstance(error, NotConnected):
            return True
        if isinstance(error, Unavailable):
            return self is Repeat.ALWAYS or (self is Repeat.NOT_BEGUN and error.is_not_begun)
        return self is Repeat.ALWAYS and isinstance(error, NoAnswer)


class Attempts:
    """Attempts until `until_s`, monotonic time."""

    def __init__(self, repeat: Repeat, timeout_s: float) -> None:
        self.until_s = time.monotonic() + timeout_s
        self._repeat = repeat
        self._pause_s = MIN_PAUSE_S

    def pause_after(self, error: ClientError) -> float:
        """Seconds until the next attempt: what the service asks for, or twice the last pause, give or take a half.

        Raises `error` where the call may not be sent again, or not in time.
        """
        pause_s = self._pause_s * random.uniform(0.5, 1.5)
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        if isinstance(error, Unavailable) and error.retry_after is not None:
            pause_s = max(pause_s, error.retry_after)
        if not self._repeat.allows(error) or time.monotonic() + pause_s >= self.until_s:
            raise error
        return pause_s


def left_s(until_s: float) -> float:
    """Seconds until `until_s`, monotonic time. Raises `TimedOut` where there are none."""
    left = until_s - time.monotonic()
    if left <= 0:
        raise TimedOut("The time of the call is over.")
    return left
