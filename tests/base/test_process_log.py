"""Log in JSON: one object a line, whatever a record holds, with the tags of the request that is being answered."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from bandit_serve.base.process_log import JsonFormatter
from bandit_serve.base.request_tags import request_tags, tagged
from bandit_serve.base.secrets import know_secrets

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def record(message: str, *arguments: Any, **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("a.b").makeRecord(
        "a.b", logging.WARNING, "f.py", 1, message, arguments, None, extra=extra or None
    )
    made.created = 1_700_000_000.25
    return made


def formatted(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter("17").format(made)
    assert line.isascii()
    assert line.isprintable()
    document: dict[str, Any] = json.loads(line)
    return document


def test_a_record_has_its_common_fields() -> None:
    assert formatted(record("%s of %d", "one", 2)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "a.b",
        "worker": "17",
        "message": "one of 2",
    }


def test_a_record_of_a_request_has_its_tags() -> None:
    with tagged(request_tags("r-1", PARENT, None)):
        said = formatted(record("x"))
        of_another = formatted(record("x", request_id="r-2", route="/v1/stats", status=200, duration_ms=1.5))
    assert (said["request_id"], said["trace_id"]) == ("r-1", PARENT[3:35])
    assert (of_another["request_id"], of_another["route"]) == ("r-2", "/v1/stats")
    assert (of_another["status"], of_another["duration_ms"]) == (200, 1.5)
    assert "request_id" not in formatted(record("x"))


@pytest.mark.parametrize(
    "text", ["\x1b]52;c;x\x07", "a\nb", "\u202eevil", "\u009b31m", "\ud800", '"}{"', "\\"]
)
def test_whatever_it_says_is_one_line_without_control_characters(text: str) -> None:
    assert formatted(record("said: %s", text))["message"] == f"said: {text}"


def test_a_traceback_is_a_field_and_passwords_are_masked() -> None:
    know_secrets("correct-horse")
    made = record("failed with %s", "correct-horse")
    try:
        raise ValueError("no correct-horse")
    except ValueError:
        made.exc_info = sys.exc_info()
    said = formatted(made)
    assert said["message"] == "failed with ***"
    assert said["traceback"].startswith("Traceback")
    assert said["traceback"].endswith("ValueError: no ***")
