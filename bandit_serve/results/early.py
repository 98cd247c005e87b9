"""Early rewards: those that the log shows before the exposures of their decisions.

A worker logs a reward at once and its exposures every 100 ms, so a quick reward comes first, and often from another
worker. Of its own arm it is exact, but the shares of the other arms are known only with the exposure: it waits for
that, for a while, and so do later changes of it, in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.log.events import REVISION, REWARD
from bandit_serve.log.times import EARLY_REWARD_MS
from bandit_serve.results.columns import RewardColumns, Rows


class EarlyRewards:
    """Rewards that wait, in the order of the log, and how far each worker's exposures have been seen."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, RewardColumns]] = []
        self._reached: dict[int, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def keep(self, rewards: RewardColumns, time_ms: int) -> RewardColumns:
        """Keeps the `rewards` that came before their exposures; returns the others."""
        known = self._known(rewards.rows)
        if known.all():
            return rewards
        self._waiting.append((time_ms, rewards.those(~known)))
        return rewards.those(known)

    def exposed(self, incarnation: int, end: int, time_ms: int) -> list[RewardColumns]:
        """Notes that a worker's decisions before number `end` are in the log; returns the rewards that may go on."""
        reached = self._reached.get(incarnation, (0, 0))[0]
        self._reached[incarnation] = (max(reached, end), time_ms)
        return self._take(lambda at_ms, rows: self._known(rows))

    def given_up(self, now_ms: int | None) -> list[RewardColumns]:
        """Stops waiting and returns the rewards that have waited too long at `now_ms`; all of them if that is None."""
        return self._take(
            lambda at_ms, rows: np.full(len(rows), now_ms is None or at_ms + EARLY_REWARD_MS < now_ms)
        )

    def forget(self, before_ms: int) -> None:
        """Forgets workers that have exposed nothing since."""
        for incarnation in [each for each, (_, last_ms) in self._reached.items() if last_ms < before_ms]:
            del self._reached[incarnation]

    def _known(self, rows: Rows) -> NDArray[np.bool_]:
        known = np.zeros(len(rows), np.bool_)
        incarnations, counters = rows["incarnation"], rows["counter"]
        for incarnation in set(incarnations.tolist()):
            reached = self._reached.get(incarnation, (0, 0))[0]
            known |= (incarnations == incarnation) & (counters < reached)
        return known

    def _take(self, goes: Callable[[int, Rows], NDArray[np.bool_]]) -> list[RewardColumns]:
        taken, waiting = [], []
        for at_ms, rewards in self._waiting:
            chosen = goes(at_ms, rewards.rows)
            if chosen.any():
                taken.append(rewards.those(chosen))
            if not chosen.all():
                waiting.append((at_ms, rewards.those(~chosen)))
        self._waiting = waiting
        return taken

    def state(self) -> dict[str, Any]:
        content = b"".join(rewards.rows.tobytes() for _, rewards in self._waiting)
        features = [rewards.x for _, rewards in self._waiting]
        reached = sorted(self._reached.items())
        return {
            "rows": np.frombuffer(content, np.uint8),
            "times_ms": np.array([at_ms for at_ms, _ in self._waiting], np.int64),
            "counts": np.array([len(rewards.rows) for _, rewards in self._waiting], np.int64),
            "x": np.frombuffer(b"".join(x.tobytes() for x in features if x is not None), np.float32),
            "revised": np.array([rewards.revised for _, rewards in self._waiting], np.uint8),
            "widths": np.array([0 if x is None else x.shape[1] for x in features], np.int64),
            "workers": np.array([incarnation for incarnation, _ in reached], np.uint64),
            "reached": np.array([counter for _, (counter, _) in reached], np.uint64),
            "last_ms": np.array([last_ms for _, (_, last_ms) in reached], np.int64),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> EarlyRewards:
        """Early rewards of a state; `ValueError` if its columns do not fit together. Former builds kept no features."""
        early = cls()
        counts, rows = state["counts"], state["rows"].tobytes()
        widths, x = state.get("widths", np.zeros_like(counts)), state.get("x", np.empty(0, np.float32))
        revised = state.get("revised", np.zeros(len(counts), np.uint8)) != 0
        if not len(widths) == len(revised) == len(counts) or (counts < 0).any() or (widths < 0).any():
            raise ValueError("the snapshot does not say what every early reward has")
        n_bytes = counts * np.where(revised, REVISION.itemsize, REWARD.itemsize)
        if n_bytes.sum() != len(rows) or (counts * widths).sum() != len(x) or not np.isfinite(x).all():
            raise ValueError("the snapshot does not hold the early rewards that it counts")
        end = end_of_x = 0
        for at_ms, count, width, size, is_revised in zip(
            state["times_ms"].tolist(),
            counts.tolist(),
            widths.tolist(),
            n_bytes.tolist(),
            revised.tolist(),
            strict=True,
        ):
            mine = x[end_of_x : end_of_x + count * width].astype(np.float32).reshape(count, width)
            its = np.frombuffer(rows[end : end + size], REVISION if is_revised else REWARD)
            early._waiting.append((at_ms, RewardColumns(its, mine if width else None, is_revised)))
            end, end_of_x = end + size, end_of_x + count * width
        for worker, counter, last_ms in zip(
            state["workers"].tolist(), state["reached"].tolist(), state["last_ms"].tolist(), strict=True
        ):
            early._reached[worker] = (counter, last_ms)
        return early
