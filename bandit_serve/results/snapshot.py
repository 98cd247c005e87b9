"""The wire form of a fold's state: named columns as MessagePack, compressed. No pickle is written or read."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import numpy as np

from bandit_serve.errors import InvalidInput

VERSION = 3

Columns = dict[str, dict[str, np.ndarray[Any, np.dtype[Any]]]]

_Column = tuple[str, list[int], bytes]
_content = msgspec.msgpack.Decoder(tuple[int, bytes, dict[str, dict[str, _Column]]])


def packed(record: bytes, parts: Columns) -> bytes:
    """`record` and the columns of each part, by name."""
    rows = {
        part: {name: (column.dtype.str, column.shape, column.tobytes()) for name, column in columns.items()}
        for part, columns in parts.items()
    }
    return zlib.compress(msgspec.msgpack.encode((VERSION, record, rows)), level=1)


def unpacked(data: bytes) -> tuple[bytes, Columns]:
    """What was packed, in arrays of their own; `InvalidInput` for what is not a snapshot of this build."""
    try:
        version, record, rows = _content.decode(zlib.decompress(data))
        parts = {
            part: {name: _array(*column) for name, column in columns.items()}
            for part, columns in rows.items()
        }
    except (zlib.error, msgspec.MsgspecError, ValueError, TypeError) as error:
        raise InvalidInput("These bytes are not a snapshot of an experiment's results.") from error
    if version != VERSION:
        raise InvalidInput(f"This build reads snapshots of version {VERSION}, not {version}.")
    return record, parts


def _array(dtype: str, shape: list[int], data: bytes) -> np.ndarray[Any, np.dtype[Any]]:
    kind = np.dtype(dtype)
    if kind.kind not in "biuf":
        raise ValueError("a snapshot holds numbers only")
    return np.frombuffer(data, kind).reshape(shape).copy()
