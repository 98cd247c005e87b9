"""JSON lines: an object a line, as they are read from files of others."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from bandit_serve.base.nesting import TOO_DEEP, nesting_error_of_json
from bandit_serve.errors import InvalidInput

JSON_ENDINGS = frozenset({".jsonl", ".ndjson", ".jsonlines"})
MAX_LINE_BYTES = 2**20


def json_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Number of each line, counted from 1, and its object, or what was expected instead. Empty lines are passed over.

    Raises `InvalidInput` with the file's `name` where it is gzipped and not whole.
    """
    number = 0
    while line := _line(file, name):
        number += 1
        if line.isspace():
            continue
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = _line(file, name)
            yield number, f"expected a line of at most {MAX_LINE_BYTES} bytes"
            continue
        if nesting_error_of_json(line) is not None:
            yield number, TOO_DEEP
            continue
        try:
            content = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError) as error:
            yield number, f"expected a JSON object: {error}"
            continue
        yield number, content if isinstance(content, dict) else "expected a JSON object"


def _line(file: BinaryIO, name: str) -> bytes:
    try:
        return file.readline(MAX_LINE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InvalidInput(f"{name} is not a whole gzip file.") from None
