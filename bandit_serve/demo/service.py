"""Service process of the demo, which ends with the demo."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from bandit_serve.base.extras import require
from bandit_serve.base.private_files import own_folder, truncated
from bandit_serve.errors import BanditServeError, UsageError
from bandit_serve.processes.child import start_child
from bandit_serve.settings import variables_for

READY = re.compile(r"^bandit-serve is ready on (https?://\S+) ", re.MULTILINE)
REFUSED = re.compile(r"^error: (.+)", re.MULTILINE | re.DOTALL)
START_TIMEOUT_S = 45.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.02


class DemoService:
    """Service with one worker on the loopback while the `with` block runs; it never outlives this process.

    `data` is its data directory, `store` a store's URL (None: its own private store), `port` 0 takes a free port. Its
    output goes to `service.log` in the data directory.
    """

    def __init__(self, data: Path, *, store: str | None, port: int) -> None:
        self.log = data / "service.log"
        self.url = ""
        self._command = [sys.executable, "-P", "-m", "bandit_serve", "serve", "--data", str(data)]
        self._command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        # Not a flag: it may have a password in it, and anybody on the machine can read a process's arguments.
        self._variables = variables_for(store=store)

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
            if ready := READY.search(self._output()):
                return ready[1]
            if ended:
                raise self._failure()
            time.sleep(POLL_S)
        raise BanditServeError(
            f"The service was not ready after {START_TIMEOUT_S:.0f} s; its log ends: {self._end()}"
        )

    def _failure(self) -> BanditServeError:
        """Error with the service's own sentence, if it printed one."""
        refused = REFUSED.search(self._output())
        if refused is None:
            return BanditServeError(f"The service ended as it started; its log ends: {self._end()}")
        sentence = " ".join(refused[1].split())
        return UsageError(sentence) if self._process.returncode == 2 else BanditServeError(sentence)

    def _output(self) -> str:
        return self.log.read_text(errors="replace")

    def _end(self) -> str:
        return " ".join(self._output().split("\n")[-3:]).strip() or "(nothing)"

    def _stop(self) -> None:
        self._process.terminate()
        self._keeper.join(STOP_TIMEOUT_S)
        if self._keeper.is_alive():
            self._process.kill()
            self._keeper.join()


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """Interruption by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Interruptible:
    """Context in which the first signal raises `Interrupted` and later ones are ignored."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._former = {each: signal.signal(each, self._interrupt) for each in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self._former.items():
            signal.signal(each, handler)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine in an event loop of its own. A signal cancels it; then `Interrupted` is raised.

        Raised inside a callback, it could be mistaken for a failure of the connection.
        """

        async def main() -> Result:
            self._task = asyncio.current_task()
            try:
                return await coroutine
            finally:
                self._task = None

        uvloop = require("uvloop", "server")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                result = runner.run(main())
            except asyncio.CancelledError:
                if self._number is None:
                    raise
        if self._number is not None:
            raise Interrupted(self._number)
        return result

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            return
        self._number = number
        if self._task is None:
            raise Interrupted(number)
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)
