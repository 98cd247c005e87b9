"""Command line: one file a command; errors become one sentence and an exit status."""

import sys


def main() -> None:
    """Runs the command that the arguments name. Ctrl-C is quiet even while the modules are loading."""
    try:
        from bandit_serve.cli.main import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


__all__ = ["main"]
