"""Parameters of policies, declared once: their types, ranges, defaults, and words for people.

A kind of policy declares those of its own as a struct beside its class, in the form in which they are configured: as
JSON has them, with numbers by the names of arms. The constructor of the class reads them by it (`read`, `read_parts`),
and so do the configuration of experiments, the description of the API, and the table in the documents.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec
import numpy as np
from msgspec import NODEFAULT, Meta, Struct, inspect

from bandit_serve.base.durations import Duration, parse_duration_ms
from bandit_serve.base.names import Name
from bandit_serve.metrics import MAX_VALUE
from bandit_serve.policies.numbers import ByArm, by_arm, finite, in_order, refusal, whole

# Arms of an experiment, and so numbers by the names of arms.
MAX_ARMS = 1_000
# Parts of one parameter: more than any has.
MAX_PARTS = 16
NULL: dict[str, Any] = {"type": "null"}
SIZES = ("min_length", "max_length")

P = TypeVar("P", bound=Struct)
Schema = dict[str, Any]
Number = inspect.FloatType | inspect.IntType
# Numbers by the names of the parts; None where the rewards show them.
Parts = dict[str, float | list[float | None] | None]

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Weight = Annotated[float, Meta(ge=0.0, le=MAX_VALUE)]
# Quantity in the unit of the rewards.
Scale = Annotated[float, Meta(ge=1e-12, le=MAX_VALUE)]
# Quantity without a unit.
Factor = Annotated[float, Meta(ge=1e-9, le=1e9)]
# A number for every arm, or one for each arm that is named and the default for the others.
NumberByArm = float | Annotated[dict[Name, float], Meta(max_length=MAX_ARMS)]
PartsByName = Annotated[dict[Annotated[str, Meta(max_length=64)], NumberByArm], Meta(max_length=MAX_PARTS)]


class CommonParameters(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Parameters that every kind of policy takes."""

    kind: Name
    min_share: (
        Annotated[
            Share, Meta(description="the least share of every arm; served: min(0.02, 0.1/K) unless given")
        ]
        | None
    ) = None
    max_share: (
        Annotated[float, Meta(gt=0.0, le=1.0, description="the most of any arm; 1 unless given")] | None
    ) = None
    refresh: Annotated[
        Duration, Meta(description='how often shares follow what is learned, such as "1s"')
    ] = "50ms"
    warmup: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=2**53,
                description="decisions that each arm gets evenly before the policy takes over; 0 unless given",
            ),
        ]
        | None
    ) = None
    half_life: (
        Annotated[
            Duration,
            Meta(
                description='the time after which what was learned weighs half, such as "7d"; endless unless given'
            ),
        ]
        | None
    ) = None
    holdout: (
        Annotated[
            Share,
            Meta(description="the share that is always split evenly and never trained on; 0 unless given"),
        ]
        | None
    ) = None

    @property
    def refresh_ms(self) -> int:
        return parse_duration_ms(self.refresh)


class Declared(NamedTuple):
    """One parameter as its struct declares it.

    number: its type as a number, where it can be one. schema: what JSON Schema is to say beside what the type says.
    """

    name: str
    type: Any
    default: Any
    description: str
    number: Number | None
    nullable: bool
    schema: Schema


@cache
def declared(parameters: type[Struct]) -> dict[str, Declared]:
    """Parameters of a struct by name, in its order."""
    described = inspect.type_info(parameters)
    assert isinstance(described, inspect.StructType)
    plain = {field.name: field.type for field in msgspec.structs.fields(parameters)}
    return {field.name: _declared(field, plain[field.name]) for field in described.fields}


def _declared(field: inspect.Field, plain: Any) -> Declared:
    types, number = [field.type], None
    nullable = False
    schema: Schema = {}
    while types:
        each = types.pop()
        if isinstance(each, inspect.Metadata):
            schema = {**(each.extra_json_schema or {}), **schema}
            types.append(each.type)
        elif isinstance(each, inspect.UnionType):
            types += each.types
        elif isinstance(each, inspect.NoneType):
            nullable = True
        elif isinstance(each, Number):
            number = each
    default = None if field.default is NODEFAULT else field.default
    description = str(schema.pop("description", ""))
    return Declared(field.name, plain, default, description, number, nullable, schema)


def read(parameters: type[P], given: Mapping[str, Any]) -> P:
    """Parameters of a kind from what its constructor was given: numbers as floats, all else as it is.

    `InvalidInput` names a number that is out of its range, TypeError what is no such parameter.
    """
    fields = declared(parameters)
    foreign = sorted(set(given) - set(fields))
    if foreign:
        own = f"its own parameters are {', '.join(fields)}" if fields else "it has no parameters of its own"
        raise TypeError(f"unexpected parameter {foreign[0]!r}: {own}")
    return parameters(**{name: _read(fields[name], value) for name, value in given.items()})


def _read(field: Declared, value: Any) -> Any:
    if field.number is None or (value is None and field.nullable):
        return value
    is_whole = isinstance(field.number, inspect.IntType)
    number = whole(field.name, value) if is_whole else finite(field.name, value)
    if not is_within(number, field.number):
        raise refusal(field.name, f"{field.name} must be {spelled_range(field.number)}, not {value!r}")
    return number


def read_parts(name: str, parts: type[Struct], given: object, n_arms: int | None = None) -> Parts:
    """Parts of a parameter such as a prior: the `given` ones, and the defaults of the others, in their order.

    With `n_arms`, a part may be by arm: a sequence (n_arms,) of numbers, or some of them by index. `InvalidInput` names
    a part that is out of its range.
    """
    fields = declared(parts)
    if not isinstance(given, Mapping) or not set(given) <= set(fields):
        raise refusal(name, f"{name} must be a mapping of {', '.join(fields)}, not {given!r}")
    return {
        part: _read_part(f"{name}.{part}", field, given.get(part), n_arms) for part, field in fields.items()
    }


def _read_part(
    name: str, field: Declared, given: ByArm | None, n_arms: int | None
) -> float | list[float | None] | None:
    assert field.number is not None
    value: Any = field.default if given is None else given
    if value is None:
        return None
    if n_arms is None:
        value, n_arms = finite(name, value), 1
    if isinstance(value, Mapping):
        value = in_order(name, value, n_arms, field.default)
    if field.nullable and isinstance(value, list | tuple):
        # Of some arms it is known, of the others it is what the rewards show.
        shown = [each is None for each in value]
        array = by_arm(name, [field.number.ge if each is None else each for each in value], n_arms)
    else:
        array = by_arm(name, value, n_arms)
        shown = [False] * n_arms
    require_within(name, array.tolist(), field.number)
    if np.ndim(value) == 0:
        return float(array[0])
    return [None if each else number for each, number in zip(shown, array.tolist(), strict=True)]


def as_configured(declaration: Any) -> Any:
    """Type of a parameter in a configuration: the declared one without its range, or null."""
    kinds = tuple(each for each in alternatives_of(declaration) if each is not NoneType)
    return Union[(*kinds, None)]


def arms_named(at: str, value: Any, declaration: Any) -> Iterator[tuple[str, Collection[str]]]:
    """Yield the path, from `at` on, of each mapping by names of arms in a configured parameter, and those names."""
    for each in alternatives_of(declaration):
        if isinstance(value, dict) and get_origin(unannotated(each)) is dict:
            key, item = get_args(unannotated(each))
            if key == Name:
                yield at, value
            else:
                for name, part in value.items():
                    yield from arms_named(f"{at}.{name}", part, item)


def by_index(value: Any, declaration: Any, indices: Mapping[str, int]) -> Any:
    """Configured parameter as constructors take it: with the indices of arms in place of their names."""
    for each in alternatives_of(declaration):
        if isinstance(value, dict) and get_origin(unannotated(each)) is dict:
            key, item = get_args(unannotated(each))
            if key == Name:
                return {indices[name]: number for name, number in value.items()}
            return {name: by_index(part, item, indices) for name, part in value.items()}
    return value


def alternatives_of(declaration: Any) -> tuple[Any, ...]:
    """Types that a declared value may have: numbers without their ranges, others with the bounds of their sizes."""
    if get_origin(declaration) in (Union, UnionType):
        return tuple(each for one in get_args(declaration) for each in alternatives_of(one))
    if get_origin(declaration) is not Annotated:
        return (declaration,)
    inner, *metas = get_args(declaration)
    if get_origin(inner) in (Union, UnionType):
        return alternatives_of(inner)
    sizes = {name: size for meta in metas for name in SIZES if (size := getattr(meta, name)) is not None}
    return (Annotated[inner, Meta(**sizes)] if sizes else inner,)


def unannotated(declaration: Any) -> Any:
    return get_args(declaration)[0] if get_origin(declaration) is Annotated else declaration


def require_within(name: str, numbers: Sequence[float], declared: Number | None) -> None:
    """Raise `InvalidInput` unless all `numbers` are in the declared range."""
    for number in numbers:
        if declared is not None and not is_within(number, declared):
            raise refusal(name, f"{name} must be {spelled_range(declared)}, not {number:g}")


def is_within(number: float, declared: Number) -> bool:
    return (
        (declared.ge is None or number >= declared.ge)
        and (declared.gt is None or number > declared.gt)
        and (declared.le is None or number <= declared.le)
        and (declared.lt is None or number < declared.lt)
    )


def spelled_range(declared: Number) -> str:
    """Range in words: "from 0 to 1", "above 0 and at most 1"; "a number" where there is none."""
    least = declared.gt if declared.ge is None else declared.ge
    if least is None:
        return "a number"
    low = f"above {spelled(least)}" if declared.ge is None else f"from {spelled(least)}"
    if declared.le is None:
        return low if declared.lt is None else f"{low} and below {spelled(declared.lt)}"
    return (
        f"{low} and at most {spelled(declared.le)}"
        if declared.ge is None
        else f"{low} to {spelled(declared.le)}"
    )


def spelled(number: float) -> str:
    """Number as people write it: 1e-9, not 1e-09."""
    if isinstance(number, int):
        return f"{number:,}"
    mantissa, _, exponent = f"{number:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def parts_schema(*alternatives: type[Struct], by_arm: bool) -> Schema:
    """JSON Schema of a parameter with the parts of one of `alternatives`: each range as wide as in any of them."""
    ranges: dict[str, list[Number]] = {}
    for each in alternatives:
        for field in declared(each).values():
            assert field.number is not None
            ranges.setdefault(field.name, []).append(field.number)
    schemas: dict[str, Schema] = {}
    for name, numbers in ranges.items():
        number: Schema = {"type": "number"}
        if all(each.ge is not None and each.le is not None for each in numbers):
            number["minimum"] = min(each.ge for each in numbers if each.ge is not None)
            number["maximum"] = max(each.le for each in numbers if each.le is not None)
        by_name = {"type": "object", "additionalProperties": number, "maxProperties": MAX_ARMS}
        schemas[name] = {"anyOf": [number, by_name]} if by_arm else number
    return {"properties": schemas, "additionalProperties": False}


def property_schema(field: Declared) -> Schema:
    """JSON Schema of a parameter in a configuration, where null counts as not given."""
    schema = msgspec.json.schema(field.type)
    words = field.description
    if field.default is not None:
        words = f"{words} (default: {msgspec.json.encode(field.default).decode()})"
    alternatives = [
        {key: value for key, value in {**each, **field.schema}.items() if key != "description"}
        for each in schema.get("anyOf", [schema])
        if each != NULL
    ]
    return {"anyOf": [*alternatives, NULL], "description": words}
