"""Common Expression Language: what of it gates use, compiled by Google's library (extra `gates`).

The library bounds what an expression may cost, and refuses by its types what would fail when it is evaluated.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from bandit_serve.base.extras import require

PLACE = re.compile(r"ERROR: <input>:1:(\d+): ([^\n]*)")
SYNTAX, TOO_DEEP = "Syntax error", "recursion"

Holds = Callable[[int], bool | None]


class NotCel(Exception):
    """Refusal of an expression that begins at a character of what was compiled.

    `at`: index of its character where it is not one; `what`: why, empty for its syntax.
    """

    def __init__(self, message: str, begins: int) -> None:
        found = PLACE.search(message)
        what = found[2].partition(" (in container")[0] if found else message
        self.at = int(found[1]) - 1 - begins if found else 0
        self.what = "it is nested too deeply" if TOO_DEEP in what else "" if what.startswith(SYNTAX) else what
        super().__init__(what)


class NumberVariables:
    """Variables that comparisons are made of, each a number."""

    def __init__(self, variables: Iterable[str]) -> None:
        cel = _library()
        self._environment = cel.NewEnv(variables=dict.fromkeys(variables, cel.Type.DOUBLE))

    def comparison(self, left: str, symbol: str, right: str) -> NumberComparison:
        """Comparison of two expressions. `NotCel` where one is none, with a place in `left symbol right`."""
        # NaN differs from itself.
        opening, source = "[", f"{left} {symbol} {right}, {left} == {left}, {right} == {right}]"
        return NumberComparison(_compile(self._environment, opening + source, len(opening)))


class NumberComparison:
    """Compiled comparison of two numbers."""

    def __init__(self, program: Any) -> None:
        self._program = program

    def of(self, values: Mapping[str, float]) -> bool | None:
        """Truth of it, where each variable has one of `values`; None where a side of it is not a number."""
        holds, *are_numbers = self._program.eval(data=dict(values)).plain_value()
        return bool(holds) if all(are_numbers) else None


class LogicalExpression:
    """Logical expression of `holds(0)`, `holds(1)` …, each true, false or unknown. `NotCel` where it is none."""

    def __init__(self, source: str) -> None:
        self._program = _compile(_logic(), source)

    def of(self, holds: Holds) -> bool | None:
        """Truth of it, None if that is unknown. `holds` is asked from left to right, as far as it matters."""
        before = _holds.set(holds)
        try:
            found = self._program.eval()
        finally:
            _holds.reset(before)
        return None if found.type() == _library().Type.ERROR else bool(found.value())


_holds: ContextVar[Holds] = ContextVar("holds")


def _library() -> Any:
    return require("cel_expr_python.cel", "gates")


def _compile(environment: Any, source: str, begins: int = 0) -> Any:
    try:
        return environment.compile(source)
    except RuntimeError as error:
        raise NotCel(str(error), begins) from None


@functools.cache
def _logic() -> Any:
    cel = _library()
    overload = cel.Overload(
        "holds_int", return_type=cel.Type.BOOL, parameters=[cel.Type.INT], impl=_known_to_hold
    )
    return cel.NewEnv(functions=[cel.FunctionDecl("holds", [overload])])


def _known_to_hold(number: int) -> bool:
    """Truth of a condition. Raises for one that is unknown: CEL's `&&` and `||` go on without it where they can."""
    found = _holds.get()(number)
    if found is None:
        raise LookupError
    return found
