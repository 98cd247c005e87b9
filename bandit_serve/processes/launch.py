"""Run as a script by child.py, with nothing but the standard library: becomes the server, tied to its parent.

    python -I -S launch.py <parent's pid> <server> <argument>...

A script of its own, as subprocess's `preexec_fn` may deadlock in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def launch(parent: int, command: list[str]) -> None:
    """Replaces this process by `command`; leaves at once if `parent` is gone already."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.platform == "linux":
        # SIGKILL, not SIGTERM: on SIGTERM the server answers for up to 100 ms more, and whoever is started
        # in its parent's place adopts a server that is about to leave. What it acknowledged is on disk.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == parent:
        os.execv(command[0], command)


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2:])
