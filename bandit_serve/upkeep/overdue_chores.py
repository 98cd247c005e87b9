"""Overdue chores: reported as troubles until they are done."""

from __future__ import annotations

import time
from typing import Literal

from bandit_serve.base.troubles import Troubles
from bandit_serve.folds.replica import Replica
from bandit_serve.store.keys import COMMON

Chore = Literal["snapshot_overdue", "trim_overdue"]
DETAILS: dict[Chore, str] = {
    "snapshot_overdue": "no snapshot of {owner} could be written for {minutes:.1f} minutes, so its log only grows",
    "trim_overdue": "the log of {owner} could not be checked for trimming for {minutes:.1f} minutes",
}

LOOKS = 30
"""Looks at all chores in the time after which one is overdue: each takes milliseconds for 10,000 experiments."""


class OverdueChores:
    """Begins a trouble for each chore that was not done for `after_s`, counted at first from its log or the lease."""

    def __init__(self, replica: Replica, troubles: Troubles, after_s: float) -> None:
        self._replica = replica
        self._troubles = troubles
        self._after_s = after_s
        self._done_s: dict[tuple[Chore, str], float] = {}
        self._next_s = 0.0

    def done(self, chore: Chore, owner: str) -> None:
        """Records that a chore was done now, and ends its trouble."""
        self._done_s[chore, owner] = time.monotonic()
        self._troubles.end(chore, _experiment(owner))

    def look(self) -> None:
        """Begins troubles for the chores that are overdue now, if it has not looked a moment ago."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + self._after_s / LOOKS
        for owner in (COMMON, *self._replica.experiments):
            for chore, text in DETAILS.items():
                waited_s = now_s - self._done_s.setdefault((chore, owner), now_s)
                if waited_s > self._after_s:
                    detail = text.format(
                        owner=owner if owner != COMMON else "the registry", minutes=waited_s / 60
                    )
                    self._troubles.begin(chore, f"{detail[0].upper()}{detail[1:]}.", _experiment(owner))

    def forget(self) -> None:
        """Ends all troubles, because another worker holds the lease and reports them."""
        for chore, owner in self._done_s:
            self._troubles.end(chore, _experiment(owner))
        self._done_s.clear()


def _experiment(owner: str) -> str | None:
    return None if owner == COMMON else owner
