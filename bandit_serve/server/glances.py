"""Glances at results of experiments, for lists: made anew where a log has moved, the oldest first, within a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import UNSET

from bandit_serve.dashboard.overview import ResultLook, finding_of
from bandit_serve.errors import BanditServeError
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.offset import Offset
from bandit_serve.pictures.sparkline import PARTS
from bandit_serve.results import ResultsFold, report, traffic_of
from bandit_serve.server.service import Service

MAX_GLANCES = 10_000
AGAIN_S = 4.0
"""Pause between two glances at one experiment."""


class Glance(NamedTuple):
    """Glance at the experiment of `uid`, whose log had this offset, at this time of the monotonic clock."""

    uid: int
    offset: Offset
    at_s: float
    look: ResultLook


class Glances:
    """Latest glances of this worker, at most `MAX_GLANCES`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[str, Glance] = {}
        self._looking: asyncio.Task[None] | None = None

    def of(self, live: LiveExperiment) -> ResultLook | None:
        """Latest look at an experiment, which may be of a while ago."""
        glance = self._glance(live)
        return None if glance is None else glance.look

    def any_due(self, some: Iterable[LiveExperiment]) -> bool:
        now_s = time.monotonic()
        return any(self._due_s(live) <= now_s for live in some)

    def any_unseen(self, some: Iterable[LiveExperiment]) -> bool:
        """Whether there is one that was never looked at."""
        return any(self._due_s(live) == 0.0 for live in some)

    async def look(self, some: Iterable[LiveExperiment], within_s: float) -> None:
        """Looks at those that are due, for about so many seconds.

        A look that takes longer, as the store does, goes on when nobody waits for it any more. One at a time looks.
        """
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(list(some), within_s), name="glances")
        looking = self._looking
        await asyncio.wait({looking}, timeout=within_s)
        if looking.done():
            if self._looking is looking:
                self._looking = None
            looking.result()

    async def _look(self, some: Sequence[LiveExperiment], within_s: float) -> None:
        now_s = time.monotonic()
        due = [
            (at_s, number, live) for number, live in enumerate(some) if (at_s := self._due_s(live)) <= now_s
        ]
        for _, _, live in sorted(due):
            if time.monotonic() >= now_s + within_s:
                return
            await self._look_at(live)

    async def _look_at(self, live: LiveExperiment) -> None:
        service, name, offset = self._service, live.experiment.id, live.offset
        decider = service.decisions.decider(name)
        shares = dict(zip(decider.arm_names, decider.shares.tolist(), strict=True))
        as_of_ms = service.node.store.clock.now_ms()

        def seen(fold: ResultsFold) -> ResultLook:
            made = report(fold, live.record, shares, as_of_ms)
            days = made.decision.days_to_go
            return ResultLook(
                finding_of(made.reason),
                made.decision.state,
                None if days is UNSET else days,
                made.srm.verdict,
                traffic_of(fold, PARTS),
            )

        try:
            look = await service.node.results.read(live, offset, seen)
        except BanditServeError:
            return
        before = self._known.pop(name, None)
        if before is not None and before.look == look:
            # The same object: what was made of it is still right.
            look = before.look
        self._known[name] = Glance(live.record.uid, offset, time.monotonic(), look)
        if len(self._known) > MAX_GLANCES:
            del self._known[next(iter(self._known))]

    def _glance(self, live: LiveExperiment) -> Glance | None:
        glance = self._known.get(live.experiment.id)
        return None if glance is None or glance.uid != live.record.uid else glance

    def _due_s(self, live: LiveExperiment) -> float:
        """Time of the monotonic clock from which on an experiment is to be looked at; infinity if nothing is new."""
        if not live.exposures.any():
            return float("inf")
        glance = self._glance(live)
        if glance is None:
            return 0.0
        return float("inf") if glance.offset == live.offset else glance.at_s + AGAIN_S
