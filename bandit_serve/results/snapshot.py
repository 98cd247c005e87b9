"""The wire form of a fold's state: named columns as MessagePack, compressed. No pickle is written or read."""

from __future__ import annotations

import zlib
from typing import Any

import msgpack
import numpy as np

from bandit_serve.errors import InvalidInput

VERSION = 1
MAX_BYTES = 2**32 - 1

Columns = dict[str, dict[str, np.ndarray[Any, np.dtype[Any]]]]


def packed(record: bytes, parts: Columns) -> bytes:
    """`record` and the columns of each part, by name."""
    rows = {
        part: {name: [column.dtype.str, list(column.shape), column.tobytes()] for name, column in columns.items()}
        for part, columns in parts.items()
    }
    return zlib.compress(msgpack.packb([VERSION, record, rows]), level=1)


def unpacked(data: bytes) -> tuple[bytes, Columns]:
    """What was packed, in arrays of their own; `InvalidInput` for bytes that are not a snapshot of this build."""
    try:
        content = msgpack.unpackb(zlib.decompress(data), max_bin_len=MAX_BYTES)
        version, record, rows = content
        if version != VERSION:
            raise InvalidInput(f"This build reads snapshots of version {VERSION}, not {version!r}.")
        return record, {
            part: {name: _column(*column) for name, column in columns.items()} for part, columns in rows.items()
        }
    except (zlib.error, ValueError, TypeError, AttributeError) as error:
        raise InvalidInput("These bytes are not a snapshot of an experiment's results.") from error


def _column(dtype: str, shape: list[int], data: bytes) -> np.ndarray[Any, np.dtype[Any]]:
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise InvalidInput("A snapshot holds numbers only.")
    return np.frombuffer(data, kind).reshape(shape).copy()
