"""Decoding of data from a later build: fields that this build does not know are dropped."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")


def decode_known(data: bytes, kind: type[T]) -> T:
    """Decodes MessagePack as `kind` and drops unknown struct fields. Raises `msgspec.MsgspecError` otherwise."""
    document = msgspec.msgpack.decode(data)
    return msgspec.convert(_known(document, inspect.type_info(kind)), kind)


def _known(value: Any, kind: inspect.Type) -> Any:
    match kind:
        case inspect.StructType() if isinstance(value, dict):
            fields = {field.encode_name: field.type for field in kind.fields}
            return {name: _known(each, fields[name]) for name, each in value.items() if name in fields}
        case inspect.VarTupleType() | inspect.ListType() if isinstance(value, list):
            return [_known(each, kind.item_type) for each in value]
        case inspect.DictType() if isinstance(value, dict):
            return {name: _known(each, kind.value_type) for name, each in value.items()}
        case inspect.UnionType():
            structs = [each for each in kind.types if isinstance(each, inspect.StructType)]
            return _known(value, structs[0]) if len(structs) == 1 else value
    return value
