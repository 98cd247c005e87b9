"""Background tasks of a worker: vital ones, whose end ends the worker, and repeated ones, which start again."""

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
Leave = Callable[[asyncio.Task[None]], None]


class Tasks:
    """Running background tasks. `failures` counts the restarts of repeated ones.

    `leave` is called when a vital one ends.
    """

    def __init__(self, troubles: Troubles, leave: Leave | None = None) -> None:
        self.failures = 0
        self._troubles = troubles
        self._leave = leave or leave_worker
        self._running: list[asyncio.Task[None]] = []

    def vital(self, run: Run) -> None:
        """Starts a task whose end ends the whole, as that could only seem to work without it."""
        task = asyncio.create_task(run())
        task.add_done_callback(self._leave)
        self._running.append(task)

    def repeated(self, name: str, run: Run) -> None:
        """Starts a task that requests do not depend on. When it fails, that is logged and a trouble, and it starts
        again.
        """
        self._running.append(asyncio.create_task(self._repeat(name, run), name=name))

    async def end(self) -> None:
        for task in self._running:
            task.remove_done_callback(self._leave)
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


def leave_worker(task: asyncio.Task[None]) -> None:
    """Ends the worker, because a vital task has ended; the supervisor starts another, which reads the logs anew."""
    if task.cancelled():
        return
    if isinstance(task.exception(), LogLost):
        log.critical("%s The worker leaves, and its successor starts from what there is.", task.exception())
        signal.raise_signal(signal.SIGTERM)
    else:
        log.critical("a background task ended; the worker leaves", exc_info=task.exception())
        os._exit(70)
