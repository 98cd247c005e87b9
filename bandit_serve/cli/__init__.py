"""Command line: one file a command; errors become one sentence and an exit status."""

import signal
import sys
from types import FrameType


def main() -> None:
    """Runs the command that the arguments name. Ctrl-C is quiet even while the modules are loading.

    So is the end of a service: until it has begun to listen for SIGTERM, the signal ends it here. As the first process
    of a container it would not even notice one that it does not handle.
    """
    if sys.argv[1:2] == ["serve"]:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _leave)
    try:
        from bandit_serve.cli.main import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


__all__ = ["main"]
