"""Warnings that many requests would repeat: of each subject one, then none for a while."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Hashable

REST_S = 1.0
MAX_SUBJECTS = 1_000


class RepeatedWarnings:
    """Times of the last warning about each subject, at most `MAX_SUBJECTS`."""

    def __init__(self) -> None:
        self._warned_s: dict[Hashable, float] = {}

    def say(
        self, log: logging.Logger, subject: Hashable, sentence: str, exc_info: Exception | None = None
    ) -> None:
        """Logs a warning, with the traceback of `exc_info`, unless there was one about `subject` within `REST_S`."""
        now_s = time.monotonic()
        if now_s - self._warned_s.get(subject, -math.inf) < REST_S:
            return
        if len(self._warned_s) >= MAX_SUBJECTS:
            self._warned_s.clear()
        self._warned_s[subject] = now_s
        log.warning("%s", sentence, exc_info=exc_info)
