"""The service that the demo runs: `bandit-serve serve` as a process of its own."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from bandit_serve.base.private_files import own_folder, truncated
from bandit_serve.errors import BanditServeError, UsageError
from bandit_serve.processes.child import start_child
from bandit_serve.settings import PREFIX

READY = re.compile(r"^bandit-serve is ready on (http://\S+) ", re.MULTILINE)
REFUSED = re.compile(r"^error: (.+)", re.MULTILINE | re.DOTALL)
START_TIMEOUT_S = 45.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.02


class DemoService:
    """One worker on the loopback, up while the `with` block runs; it ends with this process in any case.

    `data` is its data directory, `store` the URL of its store (its own private one when None), `port` 0 takes
    a free one. What it prints goes to `service.log` in the data directory.
    """

    def __init__(self, data: Path, *, store: str | None, port: int) -> None:
        self.log = data / "service.log"
        self.url = ""
        self._command = [sys.executable, "-P", "-m", "bandit_serve", "serve", "--data", str(data)]
        self._command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        # Not a flag: it may have a password in it, and anybody on the machine can read a process's arguments.
        self._variables = {} if store is None else {f"{PREFIX}STORE": store}

    def __enter__(self) -> Self:
        try:
            own_folder(self.log.parent)
            with truncated(self.log) as log:
                self._process, self._keeper = start_child(
                    self._command, output=log.fileno(), variables=self._variables
                )
        except OSError as error:
            raise UsageError(
                f"The data directory {self.log.parent} can not be used: {error.strerror}."
            ) from None
        try:
            self.url = self._await_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _await_ready(self) -> str:
        until_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until_s:
            ended = not self._keeper.is_alive()
            if found := READY.search(self._told()):
                return found[1]
            if ended:
                raise self._failure()
            time.sleep(POLL_S)
        raise BanditServeError(
            f"The service was not ready after {START_TIMEOUT_S:.0f} s; its log ends: {self._end()}"
        )

    def _failure(self) -> BanditServeError:
        """The service's own sentence where it gave one."""
        refused = REFUSED.search(self._told())
        if refused is None:
            return BanditServeError(f"The service ended as it started; its log ends: {self._end()}")
        sentence = " ".join(refused[1].split())
        return UsageError(sentence) if self._process.returncode == 2 else BanditServeError(sentence)

    def _told(self) -> str:
        return self.log.read_text(errors="replace")

    def _end(self) -> str:
        return " ".join(self._told().split("\n")[-3:]).strip() or "(nothing)"

    def _stop(self) -> None:
        self._process.terminate()
        self._keeper.join(STOP_TIMEOUT_S)
        if self._keeper.is_alive():
            self._process.kill()
            self._keeper.join()
