"""Starting of a process that ends with the one that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launch.py")


def start_child(
    command: list[str],
    *,
    output: int,
    pass_fds: tuple[int, ...] = (),
    variables: Mapping[str, str] | None = None,
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """Starts a process that ends with this one; returns it and the thread that waits for its end.

    `output` is the descriptor for its stdout and stderr; `variables` are added to its environment. It runs in a session
    of its own, so that Ctrl-C reaches this process only. Raises what `subprocess.Popen` raises.
    """
    started: Future[subprocess.Popen[bytes]] = Future()

    def keep() -> None:
        # Linux ends the child with the thread that started it, so this thread lives until the child has ended.
        # Signals are left to the other threads.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                env={**os.environ, **(variables or {})},
                start_new_session=True,
                umask=0o077,
            )
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(child)
        child.wait()

    keeper = threading.Thread(target=keep, name="private-store", daemon=True)
    keeper.start()
    return started.result(), keeper
