"""Writes that are answered only when replicas have confirmed them."""

from __future__ import annotations

from typing import Any

from bandit_serve.errors import StoreUnavailable
from bandit_serve.store.calls import RunsCommands
from bandit_serve.store.failures import LACKS_REPLICAS

SHARE_OF_TIMEOUT = 0.8
"""The replicas' part of a call's time, so that what they lack is said before the time is over."""


class Confirmed:
    """Calls after which the server waits for `n_replicas` of its replicas, on the same connection.

    The command to wait goes with the call in one write.
    """

    def __init__(self, calls: RunsCommands, n_replicas: int, timeout_s: float) -> None:
        self._calls = calls
        self._n_replicas = n_replicas
        self._wait = ("WAIT", n_replicas, max(1, int(1000 * SHARE_OF_TIMEOUT * timeout_s)))

    async def execute_command(self, *command: Any) -> Any:
        """Sends one command and returns its reply. Raises StoreUnavailable where too few replicas have it in time."""
        reply, confirmed = await self._calls.execute_before(self._wait, *command)
        if confirmed < self._n_replicas:
            replicas = "replica" if self._n_replicas == 1 else "replicas"
            raise StoreUnavailable(
                f"{confirmed} of {self._n_replicas} {replicas} of the store confirmed the write in time.",
                what=LACKS_REPLICAS,
            )
        return reply
