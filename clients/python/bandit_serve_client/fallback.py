"""Defaults that are served while the service can not be asked, and their counts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bandit_serve_client.decisions import Decision
from bandit_serve_client.errors import ClientError, Problem
from bandit_serve_client.forks import forget_in_children
from bandit_serve_client.seldom import SeldomWarning

PAUSE_S = 1.0
"""Pause after a failure in which nobody waits for the service again."""
REASON = "default"


@dataclass(frozen=True, slots=True)
class Default:
    """Arm and payload, usually those of control, that are served while the service is away."""

    arm: str
    payload: Any = None


class Fallback:
    """Rule of when a default is served: at any error of a call, and for `PAUSE_S` after the service was away."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._asked_again_s = 0.0
        self._warning = SeldomWarning()
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """Leaves a lock that another thread may hold to the process that this one was forked from."""
        self._lock = threading.Lock()

    @property
    def counts(self) -> Counter[str]:
        """Counts of `defaults`, and of errors by the name of their class."""
        with self._lock:
            return self._counts.copy()

    @property
    def is_pausing(self) -> bool:
        return time.monotonic() < self._asked_again_s

    def after(self, error: ClientError) -> None:
        """Notes why a call failed; begins a pause unless the service itself said no."""
        with self._lock:
            self._counts[type(error).__name__] += 1
            if not isinstance(error, Problem) or error.status >= 500:
                self._asked_again_s = time.monotonic() + PAUSE_S
            self._warning.warn(f"a default is served: {error}")

    def decision(self, experiment: str, default: Default) -> Decision:
        """Makes the decision that is served; it has no `decision_id` and takes no rewards."""
        with self._lock:
            self._counts["defaults"] += 1
        return Decision(None, experiment, default.arm, 1.0, None, default.payload, REASON)
