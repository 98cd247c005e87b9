"""Watch over what no log has: a worker's troubles, and the arms that it leaves out. Runs in every worker.

Workers that see the same tell it under one name, so it is told once; and again when it comes back after an hour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from bandit_serve.base.troubles import Troubles
from bandit_serve.errors import Overloaded, StoreUnavailable
from bandit_serve.folds.replica import Replica
from bandit_serve.notices.notice import Notice
from bandit_serve.notices.teller import Teller

LOOK_S = 1.0
SAID_AGAIN_S = 600.0
"""Pause after which what lasts is said to last: less than that after which it would be told again."""
MAX_UNTOLD = 1_000
SET_ASIDE = "set_aside"


class Watch:
    """What this worker sees. ejected: the names of the arms that are left out now, by experiment."""

    def __init__(
        self,
        troubles: Troubles,
        replica: Replica,
        ejected: Callable[[], Mapping[str, Sequence[str]]],
        teller: Teller,
        host: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._troubles = troubles
        self._replica = replica
        self._ejected = ejected
        self._teller = teller
        self._host = host
        self._now_ms = now_ms
        self._untold: dict[str, Notice] = {}
        self._said_s: dict[str, float] = {}

    async def run(self) -> None:
        """Watches until cancelled. What comes while the store is away is told when it is back."""
        while True:
            self._look()
            try:
                for told, notice in list(self._untold.items()):
                    await self._teller.tell(notice)
                    del self._untold[told]
            except (StoreUnavailable, Overloaded):
                pass
            await asyncio.sleep(LOOK_S)

    def _look(self) -> None:
        now_s = time.monotonic()
        seen = set()
        for notice in self._seen():
            seen.add(notice.told)
            if now_s - self._said_s.get(notice.told, -SAID_AGAIN_S) >= SAID_AGAIN_S:
                self._said_s[notice.told] = now_s
                if len(self._untold) < MAX_UNTOLD:
                    self._untold.setdefault(notice.told, notice)
        self._said_s = {told: at_s for told, at_s in self._said_s.items() if told in seen}

    def _seen(self) -> Iterator[Notice]:
        now_ms = self._now_ms()
        for trouble in self._troubles:
            experiment = trouble.experiment or None
            if trouble.what == SET_ASIDE and experiment is not None:
                yield self._set_aside(experiment, trouble.detail, now_ms)
                continue
            data = {"what": trouble.what, "detail": trouble.detail, "host": self._host}
            told = f"degraded:{trouble.what}:{experiment or ''}"
            yield Notice("degraded", told, now_ms, data, experiment, lasts=True)
        for name, arms in self._ejected().items():
            for arm in arms:
                data = {"arm": arm, "host": self._host}
                told = f"ejection:{self._replica.registry.owner(name)}:{arm}"
                yield Notice("ejection", told, now_ms, data, name, lasts=True)

    def _set_aside(self, experiment: str, detail: str, now_ms: int) -> Notice:
        """Notice of the entry that can not be folded, or of the experiment where no entry is to blame."""
        aside, owner = self._replica.aside.get(experiment), self._replica.registry.owner(experiment)
        data = {"detail": detail, "host": self._host}
        if aside is None or aside.offset is None:
            return Notice("set_aside", f"set_aside:{owner}", now_ms, data, experiment, lasts=True)
        told = f"set_aside:{owner}:{aside.offset}"
        return Notice("set_aside", told, aside.since_ms, data, experiment, for_ever=True)
