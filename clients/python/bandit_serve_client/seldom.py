"""Warnings that come seldom, however often there is a reason for them."""

from __future__ import annotations

import logging
import time

log = logging.getLogger("bandit_serve_client")

EVERY_S = 10.0


class SeldomWarning:
    """Warning that is logged at once, and then at most every `EVERY_S` with the number of times since."""

    def __init__(self) -> None:
        self._times = 0
        self._next_s = 0.0

    def warn(self, sentence: str, times: int = 1) -> None:
        self._times += times
        now_s = time.monotonic()
        if now_s >= self._next_s:
            log.warning("%s (%d since the last warning)", sentence, self._times)
            self._times, self._next_s = 0, now_s + EVERY_S
