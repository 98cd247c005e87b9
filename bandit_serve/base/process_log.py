"""Logging of one process: each record is one line, whatever it contains, and tracebacks are indented below it."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

from bandit_serve.base.printable_text import printable, printable_line
from bandit_serve.base.secrets import concealed

log = logging.getLogger(__name__)

INDENT = "  "


class LineFormatter(logging.Formatter):
    """Keeps text from users from starting a line of its own, controlling a terminal or showing a known password."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable_line(concealed(super().formatMessage(record)))

    def formatException(self, ei: object) -> str:
        text = printable(concealed(super().formatException(ei)))  # type: ignore[arg-type]
        return INDENT + text.replace("\n", f"\n{INDENT}")


def log_to_stderr(who: str, level: str) -> None:
    """Logs to stderr, with `who` (`supervisor`, `worker 17`) in every line. Uncaught exceptions are logged, too."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s {who} %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def plain_last_resort() -> None:
    """Applies `LineFormatter` to the warnings of a process that has no log configured."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter())


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("ended by an unexpected error", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        _log_uncaught(ended.exc_type, ended.exc_value, ended.exc_traceback)
