"""Finder of notices in the logs and results of experiments, in the worker with the lease."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from bandit_serve.base.turns import Turn
from bandit_serve.errors import NotFound, Overloaded, SetAside, StoreUnavailable
from bandit_serve.folds.replica import Replica
from bandit_serve.log.owner import name_of
from bandit_serve.notices.notice import Notice
from bandit_serve.notices.of_experiment import of_log, of_results
from bandit_serve.notices.of_promotions import of_promotions
from bandit_serve.notices.teller import Teller
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.results.fold import ResultsFold
from bandit_serve.store.keys import COMMON
from bandit_serve.webhook import WebhookEvent

log = logging.getLogger(__name__)

ROUND_S = 0.5
LOOKED_S = 10.0
"""Pause between two looks at the results of one experiment."""
MAX_CORE_SHARE = 0.1
"""Share of a core that looks at results may take: with more experiments than that, looks come later."""
TIDIED_S = 3_600.0
OF_RESULTS: frozenset[WebhookEvent] = frozenset({"harm", "srm"})


class Finder:
    """Looks at the experiments whose log has moved, and at all when this worker gets the lease.

    What it finds is told once, whoever finds it: so nothing is lost, and nothing told twice, when the lease changes
    hands.
    """

    def __init__(
        self,
        replica: Replica,
        results: ResultsLog,
        teller: Teller,
        leads: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._replica = replica
        self._results = results
        self._teller = teller
        self._looks = not teller.wanted.isdisjoint(OF_RESULTS)
        self._leads = leads
        self._now_ms = now_ms
        self._led = False
        self._moved: dict[str, None] = {}
        self._registry_moved = False
        self._to_look_at: dict[str, None] = {}
        self._looked_s: dict[str, float] = {}
        self._tidied_s = 0.0
        replica.on_deleted(lambda name, uid: self._forget(name))

    def moved(self, name: str) -> None:
        """Notes that an entry of an experiment's log, or of the registry's, was applied."""
        if name == COMMON:
            self._registry_moved = True
        elif self._led:
            self._moved[name] = None

    async def run(self) -> None:
        """Finds while this worker has the lease, until cancelled."""
        while True:
            await asyncio.sleep(ROUND_S)
            if not self._leads():
                self._led = False
                continue
            if not self._led:
                self._led = True
                self._moved = dict.fromkeys(self._replica.experiments)
                self._registry_moved = True
            try:
                await self._round()
            except (StoreUnavailable, Overloaded):
                # What was not told is found again.
                self._led = False

    def _forget(self, name: str) -> None:
        self._moved.pop(name, None)
        self._to_look_at.pop(name, None)
        self._looked_s.pop(name, None)

    async def _round(self) -> None:
        moved, self._moved = self._moved, {}
        if self._registry_moved:
            self._registry_moved = False
            for notice in of_promotions(self._replica.registry.promotions, self._now_ms()):
                await self._teller.tell(notice)
        turn = Turn()
        for name in moved:
            if turn.over:
                await turn.give_way()
            live = self._replica.experiments.get(name)
            if live is None:
                continue
            for notice in of_log(live, self._now_ms()):
                await self._teller.tell(notice)
            if self._looks and live.record.status == "running":
                self._to_look_at[name] = None
        until_s = time.monotonic() + ROUND_S
        while self._to_look_at and time.monotonic() < until_s and self._leads():
            due = next((each for each in self._to_look_at if self._is_due(each)), None)
            if due is None:
                break
            del self._to_look_at[due]
            await self._look(due)
        if time.monotonic() - self._tidied_s > TIDIED_S:
            self._tidied_s = time.monotonic()
            await self._teller.tidy(self._is_over)

    def _is_due(self, name: str) -> bool:
        return time.monotonic() - self._looked_s.get(name, 0.0) >= LOOKED_S

    def _is_over(self, told: str) -> bool:
        """Whether a notice told under this name can not be found any more."""
        event, whose = told.split(":")[:2]
        registry = self._replica.registry
        if event == "drift":
            return whose not in registry.models
        live = self._replica.experiments.get(name_of(whose))
        stopped = live is not None and live.record.status == "stopped"
        return stopped or whose not in registry.experiments

    async def _look(self, name: str) -> None:
        """Looks at the results of one experiment. A fault of it is logged, and touches no other."""
        now_ms = self._now_ms()

        def judge(fold: ResultsFold) -> tuple[list[Notice], float]:
            began_s = time.thread_time()
            found = of_results(fold, live.owner, record, now_ms)
            return found, time.thread_time() - began_s

        try:
            live = await self._replica.at_rest(name)
            record = live.record
            found, spent_s = await self._results.read(live, live.offset, judge)
        except StoreUnavailable:
            raise
        except (NotFound, SetAside):
            return
        except Exception:
            log.exception("the results of %s can not be looked at for webhooks", name)
            self._looked_s[name] = time.monotonic() + TIDIED_S
            return
        self._looked_s[name] = time.monotonic()
        for notice in found:
            await self._teller.tell(notice)
        await asyncio.sleep(spent_s / MAX_CORE_SHARE)
