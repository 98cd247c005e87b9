"""The command line: one file a command; errors become one sentence and an exit status."""

from bandit_serve.cli.main import main

__all__ = ["main"]
