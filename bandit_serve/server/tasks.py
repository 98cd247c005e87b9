"""Tasks that run beside the requests: those that a worker can not be without, and those that begin again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine

from bandit_serve.base.troubles import Troubles
from bandit_serve.errors import LogLost
from bandit_serve.server.backoff import Backoff
from bandit_serve.server.ending import end

log = logging.getLogger(__name__)

WELL_S = 60.0

Run = Callable[[], Coroutine[None, None, None]]


class Tasks:
    """`failures` counts how often one of them had to begin again."""

    def __init__(self, troubles: Troubles) -> None:
        self.failures = 0
        self._troubles = troubles
        self._running: list[asyncio.Task[None]] = []

    def vital(self, run: Run) -> None:
        """One whose end is the worker's: without it the worker would only seem to work."""
        task = asyncio.create_task(run())
        task.add_done_callback(_leave)
        self._running.append(task)

    def repeated(self, name: str, run: Run) -> None:
        """One without which requests are answered all the same: when it fails it is said, and begins again."""
        self._running.append(asyncio.create_task(self._repeat(name, run), name=name))

    async def end(self) -> None:
        for task in self._running:
            task.remove_done_callback(_leave)
        await end(self._running)

    async def _repeat(self, name: str, run: Run) -> None:
        backoff, what = Backoff(), f"{name}_failed"
        while True:
            well = asyncio.get_running_loop().call_later(WELL_S, self._troubles.end, what)
            began_s = time.monotonic()
            try:
                await run()
                raise RuntimeError("it ended by itself")
            except Exception as error:
                if time.monotonic() - began_s >= WELL_S:
                    backoff.ran_well()
                pause_s = backoff.failed()
                self.failures += 1
                log.exception("the %s failed and begins again in %g s", name, pause_s)
                detail = f"The {name} of this worker failed: {type(error).__name__}; its log says why."
                self._troubles.begin(what, detail)
            finally:
                well.cancel()
            await asyncio.sleep(pause_s)


def _leave(task: asyncio.Task[None]) -> None:
    """Where the worker knows what the log does not, another takes its place, and begins with the log."""
    if task.cancelled():
        return
    if isinstance(task.exception(), LogLost):
        log.critical("%s The worker leaves, and its successor starts from what there is.", task.exception())
        signal.raise_signal(signal.SIGTERM)
    else:
        log.critical("a background task ended; the worker leaves", exc_info=task.exception())
        os._exit(70)
