"""Codec of snapshots: what is packed is unpacked, and everything else is refused with a sentence."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.errors import UnreadableEntry
from bandit_serve.log.snapshot import Codec, Layout


class State(Struct, frozen=True, forbid_unknown_fields=True):
    n: int
    values: NDArray[np.float64]
    parts: dict[str, Any] = {}


class Row(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: str
    columns: dict[str, NDArray[Any]]


PLAIN = Codec(State, "a test")
ROWS = Codec(Row, "a test", version=3, layout=Layout.DEFLATED)


@pytest.mark.parametrize(
    "values", [np.empty(0), np.array([1.0, np.nan, -0.0]), np.arange(12.0).reshape(3, 4)[:, ::2]]
)
def test_arrays_come_back_bit_for_bit_and_can_be_written_to(values: NDArray[np.float64]) -> None:
    bits = np.ones_like(values, np.uint8)
    state = PLAIN.unpack(PLAIN.pack(State(1, values, {"bits": bits, "deep": [values]})))
    for read, as_it_was in [
        (state.values, values),
        (state.parts["bits"], bits),
        (state.parts["deep"][0], values),
    ]:
        assert (read.dtype, read.shape) == (as_it_was.dtype, as_it_was.shape)
        assert read.tobytes() == as_it_was.tobytes()
        read[...] = 0
    row = ROWS.unpack(ROWS.pack(Row("r", {"values": values})))
    assert row.columns["values"].tobytes() == values.tobytes()


def test_bytes_of_both_layouts_are_as_former_builds_wrote_them() -> None:
    values = np.array([[1, 2]], np.int16)
    extension = msgspec.msgpack.Ext(1, msgspec.msgpack.encode(["<i2", [1, 2]]) + values.tobytes())
    plain = Codec(State, "a test").pack(State(7, values))  # type: ignore[arg-type]
    assert plain == msgspec.msgpack.encode({"n": 7, "values": extension, "parts": {}})
    packed = ROWS.pack(Row("r", {"v": values}))
    row = (3, "r", {"v": ("<i2", [1, 2], values.tobytes())})
    assert packed == zlib.compress(msgspec.msgpack.encode(row), level=1)


def with_fields(**fields: Any) -> bytes:
    """A state with these fields in place of what they were."""
    whole = msgspec.msgpack.decode(PLAIN.pack(State(1, np.ones(2)))) | fields
    return msgspec.msgpack.encode({name: value for name, value in whole.items() if value is not ...})


REFUSED = {
    "nothing": (b"", "truncated"),
    "no MessagePack": (b"\xc1", "malformed"),
    "another type": (msgspec.msgpack.encode("text"), "object"),
    "a later version": (msgspec.msgpack.encode((2, {})), "version 2.*version 1"),
    "a part that is not known": (with_fields(later=1), "later"),
    "a part that is missing": (with_fields(n=...), "n"),
    "a part of another type": (with_fields(n="1"), "int"),
    "bytes for an array": (with_fields(values=b"12345678"), "array of float64"),
    "an array of another dtype": (with_fields(values=["<i8", [1], bytes(8)]), "array of float64, got int64"),
    "an array of objects": (with_fields(values=["|O", [1], bytes(8)]), "numbers"),
    "a shape that its items do not fill": (with_fields(values=["<f8", [3], bytes(8)]), "reshape"),
    "an extension that is not known": (with_fields(n=msgspec.msgpack.Ext(2, b"x")), "extension"),
    "a header that is cut off": (with_fields(n=msgspec.msgpack.Ext(1, b"\x92\xa3")), ""),
    "a stream that is cut off": (zlib.compress(bytes(100))[:-5], "incomplete"),
    "far too deep": (b"\x91" * 5_000, ""),
}


@pytest.mark.parametrize(("state", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_state_is_refused_with_a_sentence(state: bytes, says: str) -> None:
    with pytest.raises(UnreadableEntry, match=rf"(?i)^A snapshot of a test can not be read .*{says}.*\.$"):
        PLAIN.unpack(state)


def test_another_version_of_a_versioned_state_is_refused() -> None:
    former = zlib.compress(msgspec.msgpack.encode((2, "r", {})))
    with pytest.raises(UnreadableEntry, match="version 2, and this build reads version 3"):
        ROWS.unpack(former)


def test_only_numbers_texts_and_arrays_of_numbers_are_written() -> None:
    for value in (object(), np.array([object()]), np.array(["text"])):
        with pytest.raises(TypeError, match="numbers"):
            PLAIN.pack(State(1, np.ones(1), {"value": value}))
