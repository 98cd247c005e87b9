"""Cells of files without types: what their texts stand for, by who asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bandit_serve.scoring.row_files import Chunk
from bandit_serve.training.cells import DOUBTFUL, Numbers, is_missing

Reader = Callable[[str], Any]


def typed_columns(chunk: Chunk, readers: Mapping[str, Reader]) -> tuple[dict[str, Any], dict[int, str]]:
    """Columns of a chunk, and the faults of rows by place.

    Where the file has no types, cells of the columns in `readers` are what these make of their texts. A reader raises
    ValueError that says what was expected.
    """
    columns, faults = dict(chunk.columns()), dict[int, str]()
    for name in readers.keys() & columns.keys() if chunk.untyped else ():
        read, texts = readers[name], columns[name]
        columns[name] = [None] * len(texts)
        for i, text in enumerate(texts):
            if text is not None:
                try:
                    columns[name][i] = read(text)
                except ValueError as error:
                    faults.setdefault(i, f"{name}: {error}")
    return columns, faults


def json_value(text: str) -> Any:
    """Value of a text in JSON, None for a missing one; else the text itself."""
    if is_missing(text):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def number(text: str) -> Any:
    """As `json_value`, also of a number with a comma for its point."""
    if DOUBTFUL.fullmatch(text):
        raise ValueError(f"expected a number with a point, not {text}")
    value = json_value(text)
    if value is not text:
        return value
    try:
        return Numbers().read(text, 0)
    except ValueError:
        return text


def text_or_list(text: str) -> Any:
    """List of a text that is one in JSON; else the text itself."""
    return json_value(text) if text.startswith("[") else text
