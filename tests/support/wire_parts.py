"""Parts of what is stored: the fields of structs and the words of literals that a type declares, and those in bytes.

A part is `Struct.field`, or `Struct.field=word` for each word that the field may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

Part = str


def declared_parts(kind: Any) -> set[Part]:
    """Parts that a type declares, those of the types of its fields included."""
    return _declared(inspect.type_info(kind), "", set())


def _declared(kind: inspect.Type, at: Part, met: set[type]) -> set[Part]:
    match kind:
        case inspect.StructType():
            if kind.cls in met:
                return set()
            met.add(kind.cls)
            found: set[Part] = set()
            for field in kind.fields:
                here = f"{kind.cls.__name__}.{field.name}"
                found |= {here} | _declared(field.type, here, met)
            return found
        case inspect.LiteralType():
            return {f"{at}={word}" for word in kind.values}
    return set().union(*(_declared(each, at, met) for each in _within(kind)))


def _within(kind: inspect.Type) -> Iterator[inspect.Type]:
    match kind:
        case inspect.Metadata():
            yield kind.type
        case inspect.UnionType():
            yield from kind.types
        case inspect.TupleType():
            yield from kind.item_types
        case inspect.DictType():
            yield kind.value_type
        case inspect.CollectionType():
            yield kind.item_type


def written_parts(kind: Any, content: Any) -> set[Part]:
    """Parts of a type that decoded MessagePack has, other than fields with their defaults."""
    return _written(inspect.type_info(kind), content, "")


def _written(kind: inspect.Type, content: Any, at: Part) -> set[Part]:
    match kind:
        case inspect.Metadata():
            return _written(kind.type, content, at)
        case inspect.UnionType():
            return set().union(*(_written(each, content, at) for each in kind.types))
        case inspect.StructType():
            return _of_struct(kind, content)
        case inspect.LiteralType():
            return {f"{at}={content}"} if content in kind.values else set()
        case inspect.TupleType() if isinstance(content, list):
            pairs = zip(kind.item_types, content, strict=False)
            return set().union(*(_written(each, item, at) for each, item in pairs))
        case inspect.DictType() if isinstance(content, dict):
            return set().union(*(_written(kind.value_type, item, at) for item in content.values()))
        case inspect.CollectionType() if isinstance(content, list):
            return set().union(*(_written(kind.item_type, item, at) for item in content))
    return set()


def _of_struct(kind: inspect.StructType, content: Any) -> set[Part]:
    if kind.array_like and isinstance(content, list):
        content = {field.encode_name: item for field, item in zip(kind.fields, content, strict=False)}
    if not isinstance(content, dict):
        return set()
    found: set[Part] = set()
    for field in kind.fields:
        value = content.get(field.encode_name)
        here = f"{kind.cls.__name__}.{field.name}"
        found |= _written(field.type, value, here)
        if value is None or (not field.required and _is_default(field, value)):
            continue
        found.add(here)
    return found


def _is_default(field: inspect.Field, value: Any) -> bool:
    # UNSET is no default here, and is not written.
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    elif field.default is not msgspec.NODEFAULT:
        default = field.default
    else:
        return False
    return bool(msgspec.msgpack.decode(msgspec.msgpack.encode(default)) == value)
