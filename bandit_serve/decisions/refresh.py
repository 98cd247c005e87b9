"""Keeping shares up to date with the evidence, off the way of requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from bandit_serve.decisions.decider import Decider, Vector
from bandit_serve.policies.serving import policy_from_state
from bandit_serve.times import now_ms

log = logging.getLogger(__name__)

TICK_S = 0.01
MOST_OF_A_CORE = 0.05
MAX_ARMS_IN_LOOP = 32


class Refresher:
    """Recomputes the shares of experiments that have moved, by evidence or with time.

    Each at most every `refresh` of its policy, and all together at most `MOST_OF_A_CORE` of a core: what is dear
    is done less often. Over `MAX_ARMS_IN_LOOP` arms, or where shares over subsets of them are in use, the work is
    done in a thread, on a copy of the posterior.
    """

    def __init__(self, deciders: Mapping[str, Decider]) -> None:
        self._deciders = deciders
        self._due_s: dict[str, float] = {}
        self._rest_until_s = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            # The longest due first, so that the first experiments do not use up what all of them may.
            for name, decider in sorted(
                self._deciders.items(), key=lambda item: self._due_s.get(item[0], 0.0)
            ):
                now_s = time.monotonic()
                if now_s < self._rest_until_s:
                    break
                if decider.is_stale(now_ms()) and now_s >= self._due_s.get(name, 0.0):
                    await self._refresh(decider)
                    spent_s = time.monotonic() - now_s
                    self._due_s[name] = now_s + decider.live.experiment.policy.refresh_ms / 1000
                    self._rest_until_s = now_s + spent_s / MOST_OF_A_CORE

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
