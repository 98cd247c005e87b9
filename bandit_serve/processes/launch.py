"""Script that child.py runs: ties itself to its parent and then becomes the server. Standard library only.

    python -I -S launch.py <parent's pid> <server> <argument>...

It is a script because subprocess's `preexec_fn` may deadlock in a process with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def launch(parent: int, command: list[str]) -> None:
    """Replaces this process by `command`; returns at once if `parent` has ended already."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.platform == "linux":
        # SIGKILL, not SIGTERM: after SIGTERM the server answers for up to 100 ms, and a successor of its parent
        # could adopt a server that is about to end. What it acknowledged is on disk.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == parent:
        os.execv(command[0], command)


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2:])
