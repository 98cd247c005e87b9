"""Stub of the kernel `ext/experiments/audience.pyx`."""

from collections.abc import Iterable
from typing import Any

from typing_extensions import disjoint_base

ORDERINGS: dict[str, int]

@disjoint_base
class Condition:
    def __call__(self, context: dict[str, Any]) -> bool: ...

@disjoint_base
class Every(Condition):
    def __init__(self, parts: Iterable[Condition]) -> None: ...

@disjoint_base
class Some(Condition):
    def __init__(self, parts: Iterable[Condition]) -> None: ...

@disjoint_base
class Negation(Condition):
    def __init__(self, part: Condition) -> None: ...

@disjoint_base
class OfField(Condition): ...

@disjoint_base
class Presence(OfField):
    def __init__(self, field: str, wanted: bool) -> None: ...

@disjoint_base
class Equality(OfField):
    def __init__(self, field: str, values: Iterable[float | str | bool], wanted: bool = True) -> None: ...

@disjoint_base
class Ordering(OfField):
    def __init__(self, field: str, operator: str, bound: float) -> None: ...
