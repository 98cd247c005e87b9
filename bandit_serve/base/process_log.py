"""The log of one process: a record is a line, whatever is in it, and the lines of a traceback are set in."""

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
    """No name, reason or error text can begin a line of its own, steer a terminal or show a password that is known."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable_line(concealed(super().formatMessage(record)))

    def formatException(self, ei: object) -> str:
        text = printable(concealed(super().formatException(ei)))  # type: ignore[arg-type]
        return INDENT + text.replace("\n", f"\n{INDENT}")


def log_to_stderr(who: str, level: str) -> None:
    """`who` stands in every line: `supervisor`, `worker 17`. What nobody caught is logged, too."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s {who} %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def plain_last_resort() -> None:
    """Where nobody configured a log, warnings are still lines."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter())


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("ended by an error that nobody foresaw", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        _log_uncaught(ended.exc_type, ended.exc_value, ended.exc_traceback)
