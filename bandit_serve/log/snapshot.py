"""Snapshots: states of folds as bytes, in one codec.

A state is a `Struct` whose fields have types. Its bytes are MessagePack, and an array in them is an extension: its
dtype and shape, and its items. Where the state is mostly columns, `Layout.DEFLATED`, an array is a row of dtype, shape
and items, and all is compressed.

A versioned state is a list that begins with its version; one without is of the first. A state of another version, with
a field that this build does not know, or without one that it needs, is refused: half of it must not be taken over. No
pickle is written or read.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar, get_args

import msgpack
import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.base.packed_maps import with_short_header
from bandit_serve.errors import InvalidInput, UnreadableEntry
from bandit_serve.log.offset import Offset

FIRST_VERSION = 1
_ARRAY = 1
"""Code of the extension that an array is."""
_DEFLATED = b"\x78"
"""First byte of a zlib stream; no map or list that is a state begins with it."""
_NUMBERS = "biuf"

S = TypeVar("S", bound=Struct)


class Snapshot(NamedTuple):
    """State of a fold at an offset of its log."""

    offset: Offset
    state: bytes


@contextmanager
def reading(whose: str) -> Iterator[None]:
    """Context for making a state of bytes: any error that they cause becomes `UnreadableEntry`."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        InvalidInput,
        msgspec.MsgspecError,
        msgpack.UnpackException,
        zlib.error,
    ) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise UnreadableEntry(
            f"A snapshot of {whose} can not be read by this build: {why or type(error).__name__}."
        ) from error


class Layout(Enum):
    """Layout of a state's arrays: as extensions, or as rows with all compressed."""

    PLAIN = "plain"
    DEFLATED = "deflated"


class Codec(Generic[S]):
    """Codec for states of one `kind`. `whose` names their owner in refusals."""

    def __init__(
        self, kind: type[S], whose: str, *, version: int = FIRST_VERSION, layout: Layout = Layout.PLAIN
    ) -> None:
        self._kind = kind
        self._whose = whose
        self._version = version
        self._layout = layout
        hook = _extension if layout is Layout.PLAIN else _row
        self._encode = msgspec.msgpack.Encoder(enc_hook=hook).encode

    def pack(self, state: S) -> bytes:
        if self._version == FIRST_VERSION:
            packed = with_short_header(self._encode(state))
        else:
            packed = self._encode((self._version, *msgspec.structs.astuple(state)))
        return packed if self._layout is Layout.PLAIN else zlib.compress(packed, level=1)

    def unpack(self, data: bytes) -> S:
        """Decodes a state. Raises `UnreadableEntry` for bytes that no known build's `pack` makes."""
        with reading(self._whose):
            return msgspec.convert(self.content(data), self._kind, dec_hook=_array, builtin_types=(bytes,))

    def content(self, data: bytes) -> Any:
        """Fields of a state of this version, unchecked. In a compressed one, arrays are rows."""
        with reading(self._whose):
            content = _decode(zlib.decompress(data) if data[:1] == _DEFLATED else data)
            versioned = isinstance(content, list) and content and isinstance(content[0], int)
            version = content[0] if versioned else FIRST_VERSION
            if version != self._version:
                raise ValueError(f"it is of version {version}, and this build reads version {self._version}")
            return content[1:] if versioned else content


def _extension(value: Any) -> msgspec.msgpack.Ext:
    _require_numbers(value)
    header = msgspec.msgpack.encode([value.dtype.str, value.shape])
    return msgspec.msgpack.Ext(_ARRAY, b"".join((header, np.ascontiguousarray(value).data)))


def _row(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    _require_numbers(value)
    return value.dtype.str, value.shape, value.tobytes()


def _require_numbers(value: Any) -> None:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in _NUMBERS:
        raise TypeError(f"a snapshot holds numbers, texts and arrays of numbers, not {type(value).__name__}")


def _of_extension(code: int, data: memoryview) -> NDArray[Any]:
    if code != _ARRAY:
        raise ValueError(f"it holds an extension that this build does not know: {code}")
    header = msgpack.Unpacker()
    header.feed(data)
    dtype, shape = header.unpack()
    return _made(dtype, shape, data[header.tell() :])


def _made(dtype: str, shape: list[int], items: bytes | memoryview) -> NDArray[Any]:
    """Array of dtype, shape and items, with memory of its own."""
    kind = np.dtype(dtype)
    if kind.kind not in _NUMBERS:
        raise ValueError("arrays in it are of numbers")
    return np.frombuffer(items, kind).reshape(shape).copy()


@functools.cache
def _scalar_of(kind: Any) -> Any:
    """Type of the numbers in an `NDArray[...]`."""
    (scalar,) = get_args(get_args(kind)[1])
    return scalar


def _array(kind: Any, value: Any) -> NDArray[Any]:
    """Checks and converts `value` to an array of the dtype in `kind`, an `NDArray[...]`."""
    wanted = _scalar_of(kind)
    if isinstance(value, list) and value and isinstance(value[0], str):
        value = _made(*value)
    elif isinstance(value, list) and wanted is not Any:  # of a build that wrote numbers one by one
        value = np.array(value, wanted)
    if not isinstance(value, np.ndarray) or (wanted is not Any and value.dtype != np.dtype(wanted)):
        actual = getattr(value, "dtype", type(value).__name__)
        raise ValueError(f"expected an array of {getattr(wanted, '__name__', 'numbers')}, got {actual}")
    return value


_decode = msgspec.msgpack.Decoder(ext_hook=_of_extension).decode
