"""Structure of an ONNX file, read without running or building anything.

An ONNX file is a protobuf message, `ModelProto` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Only what
may do harm is looked for: data in other files, operators that are no standard ones, tensors larger than their bytes,
and graphs in graphs without end. All else is left to ONNX Runtime.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from bandit_serve.errors import InvalidArtifact

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MAX_DEPTH = 32
"""Levels of graphs in attributes of nodes."""
MAX_MESSAGES = 1_000_000
"""Nodes, attributes, tensors and other messages in a file: about 150 MB while it is read."""
MAX_FIELDS = 4_000_000
"""Fields of all messages in a file, and dimensions of its tensors: about four seconds' reading."""

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
EXTERNAL = 1
# Fields of a node.
OPERATOR, DOMAIN = 4, 7
# Runs of elements of an attribute's lists, which trees have by the million: floats, ints, strings of up to 31 bytes.
_short_strings = b"|".join(b"\x4a" + re.escape(bytes([n])) + b".{%d}" % n for n in range(32))
_elements = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,9}[\x00-\x7f]|" + _short_strings + rb")++", re.DOTALL)


class Field(NamedTuple):
    """Field of a message: its number, its value if that is a number, and the place of its bytes if it has any."""

    number: int
    value: int
    begin: int
    end: int


# Fields that hold messages, by kind of message, and the kinds of these.
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {},
}
REFUSED = {"training": "a training graph", "sparse": "a sparse tensor"}


def is_onnx(content: bytes) -> bool:
    """Whether a file begins like an ONNX file, as its first 64 bytes show: `ir_version`, then another field."""
    return len(content) > 2 and content[0] == 0x08 and 3 <= content[1] < 0x80 and content[2] > 0x07


def check_structure(content: bytes | memoryview) -> None:
    """Raises `InvalidArtifact` for a file that is no `ModelProto`, or that has what is not accepted."""
    _Structure(bytes(content)).check()


class _Structure:
    """Structure of a file, read field by field: what is kept of a message are the messages that it holds."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._n_fields = self._n_messages = 0

    def check(self) -> None:
        end = len(self._data)
        domains, n_graphs = set(DOMAINS), 0
        for field in self._fields(0, end, "model"):
            n_graphs += field.number == 7
            if field.number == 25:
                function = self._fields(field.begin, field.end, "function")
                domains.update(self._text(each) for each in function if each.number == 10)
        if not n_graphs:
            raise InvalidArtifact("The ONNX file has no graph.")
        waiting = [("model", 0, end, 0)]
        while waiting:
            kind, begin, end, depth = waiting.pop()
            if kind in REFUSED:
                raise InvalidArtifact(f"The graph has {REFUSED[kind]}, which is not accepted.")
            if kind == "tensor":
                self._check_tensor(begin, end)
                continue
            depth += kind == "graph"
            if depth > MAX_DEPTH:
                raise InvalidArtifact(f"The graph has graphs in its nodes, more than {MAX_DEPTH} deep.")
            held, named = MESSAGES[kind], {}
            for field in self._fields(begin, end, kind):
                if field.number in held:
                    self._n_messages += 1
                    if self._n_messages > MAX_MESSAGES:
                        raise InvalidArtifact(f"The ONNX file has more than {MAX_MESSAGES:,} messages.")
                    waiting.append((held[field.number], field.begin, field.end, depth))
                elif kind == "node" and field.number in (OPERATOR, DOMAIN):
                    named[field.number] = field
            if kind == "node":
                self._check_node(named, domains)

    def _check_node(self, named: dict[int, Field], domains: set[str]) -> None:
        texts = {number: self._text(field) for number, field in named.items()}
        domain = texts.get(DOMAIN, "")
        if domain not in domains:
            operator = ascii(texts.get(OPERATOR, ""))[1:61]
            raise InvalidArtifact(
                f"The graph has the operator {operator} of the domain {domain[:60]!a}: only operators of ai.onnx and "
                "ai.onnx.ml are accepted."
            )

    def _check_tensor(self, begin: int, end: int) -> None:
        size = 1
        for field in self._fields(begin, end, "tensor"):
            if field.number == 13 or (field.number == 14 and field.value == EXTERNAL):
                raise InvalidArtifact(
                    "The graph has tensors in other files (external data): save it as one file, in MLflow with "
                    "save_as_external_data=False."
                )
            if field.number == 1:
                packed = self._varints(field.begin, field.end) if field.begin else iter([field.value])
                for dimension in packed:
                    size *= dimension
                    # Elements take half a byte or more; a negative dimension is a huge one here.
                    if size > 2 * len(self._data):
                        raise InvalidArtifact(
                            "The graph has a tensor with more elements than the file has bytes."
                        )

    def _fields(self, begin: int, end: int, kind: str) -> Iterator[Field]:
        """Fields of the message of this kind at `begin`, without the elements of an attribute's lists."""
        data, at = self._data, begin
        while at < end:
            self._count()
            if kind == "attribute" and (elements := _elements.match(data, at, end)):
                at = elements.end()
                continue
            tag, at = _varint(data, at, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise _broken()
            # A field that holds a message has its bytes here, and nothing else.
            if wire != DELIMITED and number in MESSAGES[kind]:
                raise _broken()
            if wire == VARINT:
                value, at = _varint(data, at, end)
                yield Field(number, value, 0, 0)
                continue
            if wire == DELIMITED:
                length, at = _varint(data, at, end)
            elif wire in (FIXED64, FIXED32):
                length = 8 if wire == FIXED64 else 4
            else:
                raise _broken()
            if length > end - at:
                raise _broken()
            yield Field(number, 0, at, at + length)
            at += length

    def _varints(self, begin: int, end: int) -> Iterator[int]:
        while begin < end:
            self._count()
            value, begin = _varint(self._data, begin, end)
            yield value

    def _count(self) -> None:
        self._n_fields += 1
        if self._n_fields > MAX_FIELDS:
            raise InvalidArtifact(f"The ONNX file has more than {MAX_FIELDS:,} fields.")

    def _text(self, field: Field) -> str:
        return self._data[field.begin : field.end].decode("utf-8", "replace")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _broken()


def _broken() -> InvalidArtifact:
    return InvalidArtifact("The ONNX file is damaged: it is no whole protobuf message.")
