"""Reading of JSON into the types of the contract.

Fields that a type does not have are left out, so that a later service may say more.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from bandit_serve_client.errors import ClientError, UnexpectedAnswer

T = TypeVar("T")
Reader = Callable[[Any], Any]


def from_json(content: bytes) -> Any:
    """Decodes JSON. Raises `UnexpectedAnswer` where `content` is none, or is nested too deep."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise UnexpectedAnswer(f"Expected JSON from the service, not {content[:60]!r}.") from None


def read(kind: type[T], value: Any) -> T:
    """Reads a value of a dataclass. Raises `UnexpectedAnswer` where `value` has not its form."""
    with expecting(kind.__name__):
        return cast(T, _reader(cast(Any, kind))(value))


@contextmanager
def expecting(form: str) -> Iterator[None]:
    """Context for reading an answer: whatever it holds that is no `form`, any error of it is `UnexpectedAnswer`."""
    try:
        yield
    except ClientError:
        raise
    except Exception as error:
        raise UnexpectedAnswer(f"The answer is no {form}: {error!r}.") from None


def json_name(field: dataclasses.Field[Any]) -> str:
    """Name of a field in JSON, where it may be a word of Python."""
    return str(field.metadata.get("json", field.name))


@functools.cache
def _reader(kind: Any) -> Reader:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _of_fields(kind)
    if kind is float:
        return _number
    if kind in (str, int, bool):
        return functools.partial(_plain, kind)
    if origin in (Union, types.UnionType):
        (present,) = (each for each in arguments if each is not types.NoneType)
        inner = _reader(present)
        return lambda value: None if value is None else inner(value)
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        each = _reader(arguments[0])
        return lambda value: tuple(map(each, _plain(list, value)))
    if origin is tuple:
        each = _reader(arguments[0])
        return lambda value: tuple(each(one) for one, _ in zip(value, arguments, strict=True))
    if origin in (dict, Mapping):
        of_value = _reader(arguments[1])
        return lambda value: {name: of_value(one) for name, one in value.items()}
    if origin is Literal:
        # A later service may have more words than these.
        return functools.partial(_plain, str)
    return lambda value: value


def _of_fields(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    plans = [
        (field.name, json_name(field), _reader(hints[field.name]), _is_optional(field)) for field in fields
    ]

    def make(value: Any) -> Any:
        given = {}
        for name, key, reader, optional in plans:
            if not optional or key in value:
                given[name] = reader(value[key])
        return kind(**given)

    return make


def _is_optional(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _plain(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, not {value!r:.80}")
    return value


def _number(value: Any) -> float:
    if type(value) is float:
        return value
    return float(_plain(int, value))
