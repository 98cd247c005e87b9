"""States of results, taken apart and put together again."""

from __future__ import annotations

from bandit_serve.results.state import CODEC, ResultsState, StateColumns


def state_of(record: bytes, columns: StateColumns) -> bytes:
    return CODEC.pack(ResultsState(record, columns))


def parts_of(state: bytes) -> tuple[bytes, StateColumns]:
    """The record as MessagePack, and the columns in arrays of their own."""
    read = CODEC.unpack(state)
    return read.record, read.columns
