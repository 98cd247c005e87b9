"""Companions of the service: processes of `bandit-serve learn` and `retrain` that it keeps running."""

from __future__ import annotations

import logging
import os
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
MAX_LINE_CHARS = 8_192


class _Companion:
    """Process of a command, and the time of its next start. `name` is whose its lines are; `doing` is for sentences."""

    def __init__(self, name: str, doing: str, command: list[str], variables: dict[str, str]) -> None:
        self.name = name
        self._doing = doing
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
                "%s %s ended with status %d; it starts again in %g s", self._doing, self.name, status, pause_s
            )
        if now_s >= self._start_at_s:
            read_fd, write_fd = os.pipe()
            try:
                self._process, self._keeper = start_child(
                    self._command, output=write_fd, variables=self._variables
                )
            except OSError:
                os.close(read_fd)
                raise
            finally:
                os.close(write_fd)
            self._started_s = now_s
            threading.Thread(
                target=self._log, args=(read_fd,), name=f"log of {self.name}", daemon=True
            ).start()

    def _log(self, read_fd: int) -> None:
        """Logs what the process prints, line by line, until it has ended."""
        with os.fdopen(read_fd, encoding="utf-8", errors="replace") as printed:
            while line := printed.readline(MAX_LINE_CHARS):
                if line.strip():
                    log.info("%s: %s", self.name, line.rstrip("\n"))

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


class Companions:
    """Processes for `settings.learners` and `settings.retrain`. They end with this process; one that ends by itself
    is started again.
    """

    def __init__(self, settings: Settings, store_url: str) -> None:
        where = ["--data", settings.data, "--namespace", settings.namespace]
        where += ["--store-timeout", settings.store_timeout, "--max-artifact", str(settings.max_artifact)]
        # Not flags: they may have passwords in them, and anybody on the machine can read a process's arguments.
        variables = variables_for(store=store_url, artifacts=settings.artifacts, webhooks=settings.webhooks)

        def companion(name: str, doing: str, *command: str) -> _Companion:
            return _Companion(
                name, doing, [sys.executable, "-P", "-m", "bandit_serve", *command, name, *where], variables
            )

        self._companions = [companion(model, "learning", "learn") for model in settings.models_that_learn]
        self._companions += [companion(run, "retraining", "retrain") for run in settings.runs_to_repeat]

    def keep(self) -> None:
        """Starts the processes that do not run and are due."""
        for each in self._companions:
            each.keep()

    def terminate(self) -> None:
        for each in self._companions:
            each.terminate()

    def wait(self) -> None:
        """Returns when all processes have ended; kills those that take too long."""
        until_s = time.monotonic() + KILL_AFTER_S
        for each in self._companions:
            each.wait(until_s)
