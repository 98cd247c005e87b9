"""Learners of the service: one process of `bandit-serve learn` for each model that keeps learning."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

from bandit_serve.processes.child import start_child
from bandit_serve.server.backoff import Backoff
from bandit_serve.settings import Settings, variables_for

log = logging.getLogger(__name__)

# One that ran so long has not failed.
WELL_S = 60.0
KILL_AFTER_S = 5.0
STDERR = 2


class _Learner:
    """Process that learns for one model, and the time of its next start."""

    def __init__(self, model: str, command: list[str], variables: dict[str, str]) -> None:
        self.model = model
        self._command = command
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._started_s = 0.0
        self._start_at_s = 0.0
        self._backoff = Backoff()

    def keep(self) -> None:
        now_s = time.monotonic()
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            self._process = None
            if now_s - self._started_s >= WELL_S:
                self._backoff.ran_well()
            pause_s = self._backoff.failed()
            self._start_at_s = now_s + pause_s
            log.warning(
                "learning %s ended with status %d; it starts again in %g s", self.model, status, pause_s
            )
        if now_s >= self._start_at_s:
            self._process, self._keeper = start_child(self._command, output=STDERR, variables=self._variables)
            self._started_s = now_s

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait(self, until_s: float) -> None:
        if self._process is None or self._keeper is None:
            return
        self._keeper.join(max(0.0, until_s - time.monotonic()))
        if self._process.poll() is None:
            self._process.kill()
        self._keeper.join()


class Learners:
    """Processes for `settings.learners`. They end with this process; one that is killed goes on where it was."""

    def __init__(self, settings: Settings, store_url: str) -> None:
        where = ["--data", settings.data, "--namespace", settings.namespace]
        where += ["--store-timeout", settings.store_timeout, "--max-artifact", str(settings.max_artifact)]
        # Not flags: they may have passwords in them, and anybody on the machine can read a process's arguments.
        variables = variables_for(store=store_url, artifacts=settings.artifacts)
        self._learners = [
            _Learner(model, [sys.executable, "-P", "-m", "bandit_serve", "learn", model, *where], variables)
            for model in settings.models_that_learn
        ]

    def keep(self) -> None:
        """Starts the processes that do not run and are due."""
        for learner in self._learners:
            learner.keep()

    def terminate(self) -> None:
        for learner in self._learners:
            learner.terminate()

    def wait(self) -> None:
        """Returns when all processes have ended; kills those that take too long."""
        until_s = time.monotonic() + KILL_AFTER_S
        for learner in self._learners:
            learner.wait(until_s)
