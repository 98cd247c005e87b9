"""Background refresh of shares, so that no request waits for their computation."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping

from bandit_serve.base.clock import Clock, now_ms
from bandit_serve.decisions.decider import Decider
from bandit_serve.decisions.draw import Vector
from bandit_serve.folds.replica import Replica
from bandit_serve.policies import ContextualPolicy

MAX_CORE_SHARE = 0.05
"""Share of one processor core that all refreshes together may use."""
MAX_ARMS_IN_LOOP = 32


class Refresher:
    """Recomputes shares that new evidence, or time alone (ramps, readmitted arms), has made out of date.

    Each experiment is refreshed at most once in its policy's `refresh`, and all together use at most `MAX_CORE_SHARE`
    of a core. With more than `MAX_ARMS_IN_LOOP` arms, or with shares over subsets in use, the work is done in a
    thread, on a copy of the policy.
    """

    def __init__(self, deciders: Mapping[str, Decider], replica: Replica, clock: Clock = now_ms) -> None:
        self._deciders = deciders
        self._replica = replica
        self._now_ms = clock
        self._moved: set[str] = set(deciders)
        self._moving: set[str] = set()
        self._news = asyncio.Event()
        self._due_s: dict[str, float] = {}
        self._rest_until_s = 0.0

    def moved(self, name: str) -> None:
        """Notes that an entry of an experiment's log has been applied."""
        self._moved.add(name)
        self._news.set()

    async def run(self) -> None:
        """Refreshes until cancelled."""
        while True:
            self._news.clear()
            due_s = await self._refresh_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due_s is None else max(0.0, due_s - time.monotonic())):
                    await self._news.wait()

    async def _refresh_due(self) -> float | None:
        """Refreshes the experiments that are due; returns the time of the next one, None if there is none."""
        soonest_s = math.inf
        # The longest due come first, so that no experiment starves when the time for refreshes is used up.
        for name in sorted(self._moved | self._moving, key=lambda name: self._due_s.get(name, 0.0)):
            decider = self._deciders.get(name)
            if decider is None:
                self._moved.discard(name)
                self._moving.discard(name)
                continue
            with self._replica.island(name):
                if decider.is_stale(self._now_ms()):
                    now_s = time.monotonic()
                    due_s = max(self._due_s.get(name, 0.0), self._rest_until_s)
                    if now_s < due_s:
                        return min(due_s, soonest_s)
                    self._moved.discard(name)
                    await self._refresh(decider)
                    spent_s = time.monotonic() - now_s
                    self._due_s[name] = now_s + decider.live.experiment.policy.refresh_ms / 1000
                    self._rest_until_s = now_s + spent_s / MAX_CORE_SHARE
                else:
                    self._moved.discard(name)
                soonest_s = min(soonest_s, self._moves_at_s(name, decider))
        return soonest_s if math.isfinite(soonest_s) else None

    def _moves_at_s(self, name: str, decider: Decider) -> float:
        """Time at which shares are out of date by time alone. Such experiments are checked without new evidence."""
        if math.isinf(decider.moves_at_ms):
            self._moving.discard(name)
            return math.inf
        self._moving.add(name)
        return time.monotonic() + (decider.moves_at_ms - self._now_ms()) / 1000

    async def _refresh(self, decider: Decider) -> None:
        keys = decider.subsets_in_use()
        policy = decider.live.policy
        if isinstance(policy, ContextualPolicy) and policy.to_redraw:
            evidence, time_ms, everyone = decider.live.evidence, self._now_ms(), decider.everyone()
            await asyncio.to_thread(policy.redraw)
            decider.take(everyone, {}, evidence, time_ms)
            return
        if decider.contextual or (not keys and len(decider.arm_names) <= MAX_ARMS_IN_LOOP):
            decider.refresh()
            return
        live, evidence, revision = decider.live, decider.live.evidence, decider.revision
        time_ms, everyone = self._now_ms(), decider.everyone()
        shares_of = live.shares_apart(time_ms)
        # Made before the thread starts: an arm may be added meanwhile, which the copy does not know.
        masks = {key: decider.mask(key) for key in (everyone, *keys)}

        def compute() -> dict[frozenset[int], Vector]:
            return {key: shares_of(mask) for key, mask in masks.items()}

        shares = await asyncio.to_thread(compute)
        if decider.live is live and decider.revision == revision and decider.everyone() == everyone:
            decider.take(everyone, shares, evidence, time_ms)
