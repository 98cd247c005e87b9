"""Overseer of the experiments: starts and ends them by time or rule, and pauses arms that harm a guardrail.

Every worker has one, and the one with the lease acts. What it does, it decides on a record and appends only while that
is the present one: so it happens once, also where two workers act for a while, or one dies in the middle.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from bandit_serve.base.troubles import Troubles
from bandit_serve.base.turns import Turn
from bandit_serve.changes.automatic import AutomaticChanges
from bandit_serve.errors import BanditServeError, StoreUnavailable, in_full
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.times import EARLY_REWARD_MS
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.results.ending import Ending, ending, needs_results
from bandit_serve.results.fold import ResultsFold
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)

ROUND_S = 0.5
MAX_AT_ONCE, MAX_STARTS = 4, 2
"""Experiments that are attended to at once, and those of them that start: models that load for long hold up no look."""
MAX_CORE_SHARE = 0.2
"""Share of a core that looks at results may take: with so many experiments that they need more, looks come later."""
OVERHEAD_S = 0.001
"""Processor time that a look takes beside the judgement: reading the log, and handing over to a thread."""
RETRY_S = 5.0
LATE_S = EARLY_REWARD_MS / 1000 + 1.0
"""Time after which results are looked at with the rewards whose exposures have not come, as they were lost."""
START_OVERDUE, UNWATCHED = "start_overdue", "unwatched"


class Overseer:
    """Looks at the experiments whose log has moved or whose time has come, at most every `ROUND_S`.

    leads: whether this worker holds the lease. `made` counts the changes that this worker has made, by what they are.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        results: ResultsLog,
        changes: AutomaticChanges,
        troubles: Troubles,
        leads: Callable[[], bool],
    ) -> None:
        self._store = store
        self._replica = replica
        self._results = results
        self._changes = changes
        self._troubles = troubles
        self._leads = leads
        self._moved: dict[str, None] = {}
        self._to_attend: dict[str, None] = {}
        self._due_ms: dict[str, int] = {}
        self._retry_s: dict[str, float] = {}
        self._late_s: dict[str, float] = {}
        self._records: dict[str, Record] = {}
        self._by_name: tuple[dict[str, Any], ...] = (
            self._to_attend,
            self._due_ms,
            self._retry_s,
            self._late_s,
            self._records,
        )
        self._watched: set[str] = set()
        self._whole: set[str] = set()
        self._attending: dict[str, asyncio.Task[None]] = {}
        self._led = False
        self._spent_s = 0.0
        self.made = {"start": 0, "stop": 0, "pause_arm": 0}
        replica.on_deleted(lambda name, uid: self._forget(name))

    def moved(self, name: str) -> None:
        """Notes that an entry of an experiment's log was applied."""
        if name != COMMON:
            self._moved[name] = None

    async def run(self) -> None:
        """Acts while this worker holds the lease, until cancelled."""
        try:
            while True:
                began_s = time.monotonic()
                if self._leads():
                    try:
                        await self._round()
                    except StoreUnavailable as error:
                        log.info("a round of the overseer is left: %s", error)
                elif self._led:
                    self._stand_down()
                rest_s = self._spent_s / MAX_CORE_SHARE
                self._spent_s = 0.0
                await asyncio.sleep(max(began_s + ROUND_S - time.monotonic(), rest_s, 0.01))
        finally:
            for task in self._attending.values():
                task.cancel()
            await asyncio.gather(*self._attending.values(), return_exceptions=True)

    def _stand_down(self) -> None:
        """Forgets everything, as another worker acts now."""
        self._led = False
        for of in self._by_name:
            of.clear()
        for names in (self._watched, self._whole):
            names.clear()
        for name in self._replica.experiments:
            self._end_troubles(name)

    def _end_troubles(self, name: str) -> None:
        for what in (START_OVERDUE, UNWATCHED):
            self._troubles.end(what, name)

    def _forget(self, name: str) -> None:
        for of in self._by_name:
            of.pop(name, None)
        for names in (self._watched, self._whole):
            names.discard(name)
        self._moved.pop(name, None)

    async def _round(self) -> None:
        if not self._led:
            self._led, self._moved = True, dict.fromkeys(self._replica.experiments)
        moved, self._moved = self._moved, {}
        turn = Turn()
        for name in moved:
            if turn.over:
                await turn.give_way()
            if self._is_draft(name):
                # It is another draft now: what was wrong with it may be right.
                self._retry_s.pop(name, None)
                self._troubles.end(START_OVERDUE, name)
            self._follow(name)
        for name in _passed(self._retry_s):
            self._follow(name)
        for name in _passed(self._late_s):
            self._whole.add(name)
            self._follow(name)
        now_ms = await self._store.time_ms() if self._due_ms else 0
        for name, due_ms in self._due_ms.items():
            if due_ms <= now_ms and name not in self._retry_s:
                self._to_attend[name] = None
        await self._attend_to_some(now_ms)

    def _follow(self, name: str) -> None:
        """Notes when the experiment is to be attended to: at a time, or now, as its results may have moved."""
        live = self._replica.experiments.get(name)
        if live is None:
            self._forget(name)
            self._end_troubles(name)
            return
        if self._records.get(name) is not live.record:
            self._learn(name, live.record)
        if name in self._watched and name not in self._retry_s:
            self._to_attend[name] = None

    def _learn(self, name: str, record: Record) -> None:
        """Notes what a record that is new says of time and of results."""
        self._records[name] = record
        due_ms = _due_ms(record)
        if due_ms is None:
            self._due_ms.pop(name, None)
        else:
            self._due_ms[name] = due_ms
        if needs_results(record):
            self._watched.add(name)
        else:
            self._watched.discard(name)
        if record.status != "draft":
            self._troubles.end(START_OVERDUE, name)
        if record.status != "running":
            self._troubles.end(UNWATCHED, name)

    async def _attend_to_some(self, now_ms: int) -> None:
        """Attends to experiments, those that have waited the longest first, for at most `ROUND_S`.

        Those that take longer go on beside the next rounds.
        """
        until_s = time.monotonic() + ROUND_S
        while True:
            for name in self._next_ones():
                del self._to_attend[name]
                self._attending[name] = asyncio.create_task(
                    self._attend(name, now_ms), name=f"oversee {name}"
                )
            left_s = until_s - time.monotonic()
            if not self._attending or left_s <= 0.0 or self._spent_s >= MAX_CORE_SHARE * ROUND_S:
                return
            await asyncio.wait(self._attending.values(), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            self._attending = {name: task for name, task in self._attending.items() if not task.done()}

    def _next_ones(self) -> list[str]:
        """Experiments that are attended to next, for which there is room."""
        room = MAX_AT_ONCE - len(self._attending)
        starts = MAX_STARTS - sum(map(self._is_draft, self._attending))
        chosen: list[str] = []
        for name in self._to_attend:
            if len(chosen) >= room:
                break
            draft = self._is_draft(name)
            if name not in self._attending and (not draft or starts > 0):
                chosen.append(name)
                starts -= draft
        return chosen

    def _is_draft(self, name: str) -> bool:
        live = self._replica.experiments.get(name)
        return live is not None and live.record.status == "draft"

    async def _attend(self, name: str, now_ms: int) -> None:
        """Does what is due for one experiment. A fault of it is said, and touches no other."""
        live = self._replica.experiments.get(name)
        if live is None:
            return
        starting = live.record.status == "draft"
        what = START_OVERDUE if starting else UNWATCHED
        try:
            await (self._start(live, now_ms) if starting else self._look(name, now_ms))
        except StoreUnavailable:
            self._retry_s[name] = time.monotonic() + ROUND_S
        except Exception as error:
            detail = in_full(error) if isinstance(error, BanditServeError) else type(error).__name__
            sentence = "can not be started" if starting else "is neither ended nor guarded by itself"
            self._retry_s[name] = time.monotonic() + RETRY_S
            if self._led:
                self._troubles.begin(what, f"The experiment {name!r} {sentence}: {detail}", name, error=error)
        else:
            self._troubles.end(what, name)

    async def _start(self, live: LiveExperiment, now_ms: int) -> None:
        due_ms = _due_ms(live.record)
        if due_ms is not None and due_ms <= now_ms and await self._changes.start(live.record):
            self.made["start"] += 1

    async def _look(self, name: str, now_ms: int) -> None:
        live = await self._replica.at_rest(name)
        record, offset, whole = live.record, live.offset, name in self._whole

        def judge(fold: ResultsFold) -> tuple[Ending | None, bool, float]:
            began_s = time.thread_time()
            found = ending(fold.complete() if whole else fold, record, now_ms)
            return found, fold.waits and not whole, time.thread_time() - began_s

        found, waits, spent_s = await self._results.read(live, offset, judge)
        self._whole.discard(name)
        self._spent_s += spent_s + OVERHEAD_S
        if waits:
            self._late_s.setdefault(name, time.monotonic() + LATE_S)
        if found is not None and await self._changes.carry_out(record, found):
            self.made[found.what] += 1


def _passed(times_s: dict[str, float]) -> list[str]:
    """Takes out the names whose time has passed."""
    now_s = time.monotonic()
    passed = [name for name, at_s in times_s.items() if at_s <= now_s]
    for name in passed:
        del times_s[name]
    return passed


def _due_ms(record: Record) -> int | None:
    """Unix time at which time alone changes the experiment; None if it does not."""
    stopping = record.experiment.stopping
    if record.status == "draft":
        return stopping.starts_ms
    return None if record.status == "stopped" else stopping.ends_ms(record.started_ms)
