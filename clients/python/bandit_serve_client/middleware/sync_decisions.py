"""One request and what is decided in it, for threads.

Made by make_sync.py; changes belong into middleware/decisions.py.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

from bandit_serve_client.decisions import Context
from bandit_serve_client.fallback import Default
from bandit_serve_client.open_decision import OpenDecision
from bandit_serve_client.rewards import AnyReward
from bandit_serve_client.sync_client import SyncClient

MAX_HELD = 1_000
"""Rewards of one request that wait for its answer; later ones are queued at once."""


class SyncDecisions:
    """At most one decision an experiment in one request, made when it is first asked for.

    `unit` is called once, with the first decision. Rewards wait until the request is answered, and are queued then.
    """

    def __init__(self, client: SyncClient, unit: Callable[[], str | None], timeout_s: float) -> None:
        self._client = client
        self._unit = functools.cache(unit)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._made: dict[str, OpenDecision] = {}
        self._rewards: list[AnyReward] = []
        self._is_answered = False

    def decide(
        self,
        experiment: str,
        *,
        default: Default,
        context: Context | None = None,
        eligible: Sequence[str] | None = None,
    ) -> OpenDecision:
        """Draws an arm for the request's unit, or returns the one that was drawn for it.

        `default` is served where the service can not be asked within the middleware's `timeout`.
        """
        with self._lock:
            if experiment not in self._made:
                decision = self._client.open(
                    experiment,
                    unit=self._unit(),
                    context=context,
                    eligible=eligible,
                    default=default,
                    timeout=self._timeout_s,
                )
                self._made[experiment] = OpenDecision.of(decision, self._put)
        return self._made[experiment]

    def answered(self) -> None:
        """Queues what the request was rewarded with; later rewards are queued at once."""
        self._is_answered = True
        for reward in self._rewards:
            self._client.queue(reward)
        self._rewards.clear()

    def _put(self, reward: AnyReward) -> bool:
        if self._is_answered or len(self._rewards) >= MAX_HELD:
            return self._client.queue(reward)
        self._rewards.append(reward)
        return True
