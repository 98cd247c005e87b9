"""Logging of one process: each record is one line, whatever it contains, or one JSON object.

In text, tracebacks are indented below their line; in JSON they are a field.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from types import TracebackType
from typing import Any, Literal

from bandit_serve.base.clock import rfc3339
from bandit_serve.base.log_fields import LOG_FIELDS
from bandit_serve.base.printable_text import printable, printable_line
from bandit_serve.base.request_tags import current_tags
from bandit_serve.base.secrets import concealed

log = logging.getLogger(__name__)

INDENT = "  "
FIELDS = ("request_id", "trace_id", "tenant", "route", "status", "duration_ms")
"""Fields that a record may have beside the common ones, and those of `LOG_FIELDS`."""
STACKS = "stacks"
"""Attribute of a record with the stacks of another process, which are shown as a traceback is."""


class LineFormatter(logging.Formatter):
    """Keeps text from users from starting a line of its own, controlling a terminal or showing a known password."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable_line(concealed(super().formatMessage(record)))

    def formatException(self, ei: object) -> str:
        return _indented(super().formatException(ei))  # type: ignore[arg-type]

    def format(self, record: logging.LogRecord) -> str:
        line, stacks = super().format(record), getattr(record, STACKS, None)
        return line if stacks is None else f"{line}\n{_indented(stacks)}"


class JsonFormatter(logging.Formatter):
    """Makes one object a line: `time`, `level`, `logger`, `worker`, `message`, those of `FIELDS` and `LOG_FIELDS` that
    there are, and `traceback`. `worker` is a process id, or `supervisor`.
    """

    def __init__(self, worker: str) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        tags = current_tags()
        said: dict[str, Any] = {
            "time": rfc3339(round(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "worker": self._worker,
            "message": concealed(record.getMessage()),
            "request_id": None if tags is None else tags.request_id,
            "trace_id": None if tags is None else tags.trace_id,
            **LOG_FIELDS.get(),
        }
        said |= {name: getattr(record, name) for name in FIELDS if getattr(record, name, None) is not None}
        if record.exc_info:
            said["traceback"] = concealed(self.formatException(record.exc_info))
        elif getattr(record, STACKS, None) is not None:
            said["traceback"] = concealed(getattr(record, STACKS))
        return json.dumps({name: value for name, value in said.items() if value is not None})


def _indented(text: str) -> str:
    return INDENT + printable(concealed(text)).replace("\n", f"\n{INDENT}")


def logs_json() -> bool:
    """Whether this process logs in JSON, so that its last words are to be a record, too."""
    return any(isinstance(each.formatter, JsonFormatter) for each in logging.getLogger().handlers)


def log_to_stderr(who: str, level: str, form: Literal["text", "json"] = "text") -> None:
    """Logs to stderr, with `who` (`supervisor`, `worker 17`) in every line. Uncaught exceptions are logged, too."""
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JsonFormatter(who.removeprefix("worker ")))
    else:
        handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s {who} %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
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
