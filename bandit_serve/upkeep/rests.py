"""Experiments for which a keeper has nothing to do for now, as nothing has come into their logs."""

from __future__ import annotations

import random
from typing import NamedTuple

from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.offset import Offset

MAX_ROUNDS = 60
"""Rounds of snapshots after which an experiment is kept whatever is known of it; half as many at least."""


class _Kept(NamedTuple):
    """Fold that has a snapshot, the number of omissions that were known then, and the log time of what is next."""

    owner: str
    offset: Offset
    n_omissions: int
    next_ms: float


class Rests:
    """By experiment, what it was kept at, and until when that is enough."""

    def __init__(self, round_ms: float) -> None:
        self._round_ms = round_ms
        self._kept: dict[str, _Kept] = {}

    def begin(self, live: LiveExperiment, at: Offset, n_omissions: int, next_ms: float, now_ms: int) -> None:
        """Notes that all is kept up to `at`, and that the next to do is due at `next_ms`.

        What is due at no time is done after many rounds all the same. They differ, so that few come at once.
        """
        latest_ms = now_ms + self._round_ms * MAX_ROUNDS * random.uniform(0.5, 1.0)
        self._kept[live.experiment.id] = _Kept(live.owner, at, n_omissions, min(next_ms, latest_ms))

    def lasts(self, live: LiveExperiment, n_omissions: int, now_ms: int) -> bool:
        """Whether an experiment is as it was, and nothing is due."""
        kept = self._kept.get(live.experiment.id)
        return (
            kept is not None
            and now_ms < kept.next_ms
            and (kept.owner, kept.offset, kept.n_omissions) == (live.owner, live.offset, n_omissions)
        )

    def forget(self, name: str) -> None:
        self._kept.pop(name, None)

    def clear(self) -> None:
        self._kept.clear()
