"""Promoter: takes promotions from step to step, in the worker with the lease.

It remembers nothing between two looks: what is next follows from the promotion, which the registry's log has. So
another worker goes on wherever this one ends, and what both would do at once is appended once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from bandit_serve.base.repeated_warnings import RepeatedWarnings
from bandit_serve.errors import BanditServeError, Conflict, InvalidInput, StoreUnavailable, in_full
from bandit_serve.node import Node
from bandit_serve.promotions.judgement import StepJudgement
from bandit_serve.promotions.offline import judge_offline
from bandit_serve.promotions.promoting import Promoting
from bandit_serve.promotions.ramp import exposures_of, judge_ramp, strays, take_back
from bandit_serve.promotions.shadow import judge_shadow, sums_of
from bandit_serve.registry.promotions import PlannedStep, Promotion, Promotions
from bandit_serve.store.keys import COMMON

log = logging.getLogger(__name__)

ROUND_S = 0.5
LOOK_S = 1.0
"""Pause between two looks at a step that goes on."""
RETRY_S = 5.0
STRAYS_S = 10.0
"""Pause between two searches for arms that promotions hold after their end."""
MAX_AT_ONCE = 4
"""Promotions that are attended to at once, beside those at their offline step."""
MAX_OFFLINE = 1
"""Promotions at their offline step that are attended to at once: each may read a log for minutes."""


class Promoter:
    """Attends to the promotions of a node while `leads` says that this worker holds the lease."""

    def __init__(self, node: Node, leads: Callable[[], bool]) -> None:
        self._node = node
        self._promoting = Promoting(node)
        self._leads = leads
        self._attending: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._offline: set[tuple[str, str]] = set()
        self._retry_s: dict[tuple[str, str], float] = {}
        self._looked_s: dict[tuple[str, str], float] = {}
        self._failures = RepeatedWarnings()
        self._seen: Promotions = {}
        self._strays_s = 0.0
        self._open: list[Promotion] = []

    async def run(self) -> None:
        """Acts while this worker holds the lease, until cancelled."""
        try:
            while True:
                await asyncio.sleep(ROUND_S)
                self._attending = {key: task for key, task in self._attending.items() if not task.done()}
                if self._leads() and COMMON not in self._node.replica.aside:
                    self._begin_some()
                    self._take_back_strays()
                else:
                    self._retry_s.clear()
        finally:
            for task in self._attending.values():
                task.cancel()
            await asyncio.gather(*self._attending.values(), return_exceptions=True)

    def _begin_some(self) -> None:
        """Begins to attend to promotions that are open, as far as there is room: first what waited longest."""
        now_s = time.monotonic()
        self._retry_s = {key: at_s for key, at_s in self._retry_s.items() if at_s > now_s}
        promotions = self._node.replica.registry.promotions
        if promotions is not self._seen:
            self._seen = promotions
            self._open = [each for known in promotions.values() for each in known if each.is_open]
            keys = {_key(each) for each in self._open}
            self._looked_s = {key: at_s for key, at_s in self._looked_s.items() if key in keys}
        self._offline &= self._attending.keys()
        for promotion in sorted(self._open, key=lambda each: self._looked_s.get(_key(each), 0.0)):
            key, offline = _key(promotion), promotion.state == "offline"
            here = len(self._offline) if offline else len(self._attending) - len(self._offline)
            if here >= (MAX_OFFLINE if offline else MAX_AT_ONCE):
                continue
            if key not in self._attending and key not in self._retry_s:
                self._looked_s[key] = now_s
                if offline:
                    self._offline.add(key)
                self._begin(promotion)

    def _begin(self, promotion: Promotion) -> None:
        self._attending[_key(promotion)] = asyncio.create_task(
            self._attend(promotion), name=f"promotion {promotion.model} {promotion.id}"
        )

    def _take_back_strays(self) -> None:
        now_s = time.monotonic()
        if now_s < self._strays_s:
            return
        self._strays_s = now_s + STRAYS_S
        replica = self._node.replica
        for promotion in strays(replica.experiments.values(), replica.registry.promotions):
            if _key(promotion) not in self._attending:
                self._begin(promotion)

    async def _attend(self, promotion: Promotion) -> None:
        """Does what is due for one promotion. A fault of it is said, and touches no other."""
        try:
            if promotion.is_under_way:
                await self._go_on(promotion)
            else:
                await take_back(self._node, promotion)
                if promotion.is_open:
                    await self._promoting.settled(promotion)
        except StoreUnavailable:
            return
        except Exception as error:
            key = _key(promotion)
            self._retry_s[key] = time.monotonic() + RETRY_S
            trace = None if isinstance(error, BanditServeError) else error
            what = f"the promotion {promotion.id} of {promotion.model} does not go on: {in_full(error)}"
            self._failures.say(log, key, what, exc_info=trace)

    async def _go_on(self, promotion: Promotion) -> None:
        lost = self._lost(promotion)
        if lost is not None:
            await self._promoting.stop(promotion, StepJudgement(False, lost, {}))
            return
        if not promotion.steps:
            await self._promoting.enter(promotion, await self._before(promotion, promotion.plan.steps[0]))
            return
        judgement = await self._judged(promotion)
        if judgement is None:
            self._retry_s[_key(promotion)] = time.monotonic() + LOOK_S
            return
        if not judgement.passed:
            await self._promoting.stop(promotion, judgement)
            return
        step = promotion.to_come[0]
        if step.step == "production":
            await self._complete(promotion, judgement)
        else:
            await self._promoting.advance(promotion, judgement, await self._before(promotion, step))

    async def _complete(self, promotion: Promotion, judgement: StepJudgement) -> None:
        version = self._node.replica.registry.version(promotion.model, promotion.version)
        try:
            await self._node.models.load(version)
        except (Conflict, InvalidInput) as error:
            evidence = {**judgement.evidence, "load": str(error)}
            reason = f"{promotion.version} can not be loaded: {error}"
            await self._promoting.stop(promotion, StepJudgement(False, reason, evidence))
            return
        await self._promoting.complete(promotion, judgement)

    def _lost(self, promotion: Promotion) -> str | None:
        """Sentence why a promotion can not go on, whatever its step says; None where it can."""
        registry = self._node.replica.registry
        model = registry.models[promotion.model]
        if model.production != promotion.former:
            now = "no version" if model.production is None else model.production
            return f"{now} of {promotion.model} is in production now, and it was compared with {promotion.former}."
        status = model.versions[promotion.version].status
        in_shadow = bool(promotion.steps) and promotion.steps[-1].step == "shadow"
        if status == "shadow" or (status == "staged" and not in_shadow):
            return None
        return f"{promotion.version} of {promotion.model} was made {status} meanwhile."

    async def _before(self, promotion: Promotion, step: PlannedStep) -> dict[str, float]:
        """Counts at the beginning of a step; the version of a shadow step is loaded."""
        if step.step == "shadow":
            version = self._node.replica.registry.version(promotion.model, promotion.version)
            await self._node.models.load(version)
            return await sums_of(self._node, promotion.model, promotion.version)
        return await exposures_of(self._node, promotion) if step.step == "ramp" else {}

    async def _judged(self, promotion: Promotion) -> StepJudgement | None:
        step = promotion.steps[-1].step
        if step == "offline":
            return await judge_offline(self._node, promotion)
        return (
            await judge_shadow(self._node, promotion)
            if step == "shadow"
            else await judge_ramp(self._node, promotion)
        )


def _key(promotion: Promotion) -> tuple[str, str]:
    return promotion.model, promotion.id
