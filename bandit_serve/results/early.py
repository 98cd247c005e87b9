"""Rewards that the log shows before the exposures of their decisions.

A worker logs a reward at once and its exposures every 100 ms, so a quick reward comes first, and often from another
worker. What it says of its own arm is exact, but the shares of the other arms are known only with the exposure: it
waits for that, for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.events import REWARD
from bandit_serve.results.columns import Rows

PATIENCE_MS = 10_000
"""After this an exposure is taken for lost with its worker, and the reward is counted without it."""


class EarlyRewards:
    """Rows of `REWARD` that wait, in the order of the log, and how far each worker's exposures have been seen."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Rows]] = []
        self._reached: dict[int, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def keep(self, rows: Rows, time_ms: int) -> Rows:
        """Keeps the rows of `rows` that came too early; returns the others."""
        known = self._known(rows)
        if known.all():
            return rows
        self._waiting.append((time_ms, rows[~known]))
        ready: Rows = rows[known]
        return ready

    def exposed(self, incarnation: int, end: int, time_ms: int) -> Rows:
        """Notes that a worker's decisions before number `end` are in the log; returns the rows that may go on."""
        reached = self._reached.get(incarnation, (0, 0))[0]
        self._reached[incarnation] = (max(reached, end), time_ms)
        return self._take(lambda at_ms, rows: self._known(rows))

    def given_up(self, now_ms: int | None) -> Rows:
        """The rows that have waited too long at `now_ms`; all of them where that is None."""
        return self._take(
            lambda at_ms, rows: np.full(len(rows), now_ms is None or at_ms + PATIENCE_MS < now_ms)
        )

    def forget(self, before_ms: int) -> None:
        """Forgets workers that have exposed nothing since."""
        for incarnation in [each for each, (_, last_ms) in self._reached.items() if last_ms < before_ms]:
            del self._reached[incarnation]

    def _known(self, rows: Rows) -> NDArray[np.bool_]:
        known = np.zeros(len(rows), np.bool_)
        for incarnation in np.unique(rows["incarnation"]).tolist():
            reached = self._reached.get(incarnation, (0, 0))[0]
            known |= (rows["incarnation"] == incarnation) & (rows["counter"] < reached)
        return known

    def _take(self, goes: Callable[[int, Rows], NDArray[np.bool_]]) -> Rows:
        if not self._waiting:
            return np.empty(0, REWARD)
        taken, waiting = [], []
        for at_ms, rows in self._waiting:
            chosen = goes(at_ms, rows)
            taken.append(rows[chosen])
            if not chosen.all():
                waiting.append((at_ms, rows[~chosen]))
        self._waiting = waiting
        return np.frombuffer(b"".join(rows.tobytes() for rows in taken), REWARD)

    def state(self) -> dict[str, Any]:
        content = b"".join(rows.tobytes() for _, rows in self._waiting)
        reached = sorted(self._reached.items())
        return {
            "rows": np.frombuffer(content, np.uint8),
            "times_ms": np.array([at_ms for at_ms, _ in self._waiting], np.int64),
            "counts": np.array([len(rows) for _, rows in self._waiting], np.int64),
            "workers": np.array([incarnation for incarnation, _ in reached], np.uint64),
            "reached": np.array([counter for _, (counter, _) in reached], np.uint64),
            "last_ms": np.array([last_ms for _, (_, last_ms) in reached], np.int64),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> EarlyRewards:
        early = cls()
        rows = np.frombuffer(state["rows"].tobytes(), REWARD)
        ends = np.cumsum(state["counts"]).tolist()
        for at_ms, count, end in zip(state["times_ms"].tolist(), state["counts"].tolist(), ends, strict=True):
            early._waiting.append((at_ms, rows[end - count : end]))
        for worker, counter, last_ms in zip(
            state["workers"].tolist(), state["reached"].tolist(), state["last_ms"].tolist(), strict=True
        ):
            early._reached[worker] = (counter, last_ms)
        return early
