"""Keeping shares up to date with the evidence, off the way of requests."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any

from bandit_serve.decisions.decider import Decider, Vector
from bandit_serve.policies.serving import policy_from_state
from bandit_serve.times import now_ms

MOST_OF_A_CORE = 0.05
MAX_ARMS_IN_LOOP = 32
# An arm that is ejected moves shares later on, and no log says so.
LONGEST_SLEEP_S = 1.0


class Refresher:
    """Recomputes the shares of experiments that have moved, by evidence or with time.

    Each at most every `refresh` of its policy, and all together at most `MOST_OF_A_CORE` of a core: what is dear
    is done less often. Over `MAX_ARMS_IN_LOOP` arms, or where shares over subsets of them are in use, the work is
    done in a thread, on a copy of the posterior.
    """

    def __init__(self, deciders: Mapping[str, Decider]) -> None:
        self._deciders = deciders
        self._news = asyncio.Event()
        self._due_s: dict[str, float] = {}
        self._rest_until_s = 0.0

    def wake(self, _: str) -> None:
        """To be called when an entry of an experiment's log has been applied."""
        self._news.set()

    async def run(self) -> None:
        while True:
            self._news.clear()
            next_s = await self._refresh_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(0.0, next_s - time.monotonic()), LONGEST_SLEEP_S)):
                    await self._news.wait()

    async def _refresh_due(self) -> float:
        """Refreshes those that are due; returns when the next one will be, if no log says more until then."""
        next_s = math.inf
        # The longest due first, so that the first experiments do not use up what all of them may.
        for name in sorted(self._deciders, key=lambda name: self._due_s.get(name, 0.0)):
            decider = self._deciders[name]
            if time.monotonic() >= self._next_s(name, decider):
                began_s = time.monotonic()
                await self._refresh(decider)
                spent_s = time.monotonic() - began_s
                self._due_s[name] = began_s + decider.live.experiment.policy.refresh_ms / 1000
                self._rest_until_s = began_s + spent_s / MOST_OF_A_CORE
            next_s = min(next_s, self._next_s(name, decider))
        return next_s

    def _next_s(self, name: str, decider: Decider) -> float:
        """When an experiment's shares are to be made next; infinity while nothing moves them."""
        moves_s = time.monotonic() + (decider.moves_at_ms(now_ms()) - now_ms()) / 1000
        return max(self._due_s.get(name, 0.0), self._rest_until_s, moves_s)

    async def _refresh(self, decider: Decider) -> None:
        keys = decider.subsets_in_use()
        if decider.contextual or (not keys and len(decider.arm_names) <= MAX_ARMS_IN_LOOP):
            decider.refresh()
            return
        live, evidence, revision = decider.live, decider.live.evidence, decider.revision
        time_ms, everyone = now_ms(), decider.everyone()
        circumstances: dict[str, Any] = live.circumstances(time_ms)
        copy = policy_from_state(live.policy.state())

        def compute() -> dict[frozenset[int], Vector]:
            return {
                key: copy.shares(eligible=decider.mask(key), **circumstances) for key in (everyone, *keys)
            }

        shares = await asyncio.to_thread(compute)
        if decider.live is live and decider.revision == revision and decider.everyone() == everyone:
            decider.take(everyone, shares, evidence, time_ms)
