"""Conditions of a gate: comparisons of metrics, "not worse", and groups of them. Each tells what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from bandit_serve.training.cel import LogicalExpression, NumberComparison
from bandit_serve.training.gate_tokens import Token
from bandit_serve.training.metrics import is_better


class Facts(NamedTuple):
    """Metrics that conditions are checked against. `reasons` collects what was found."""

    known: Mapping[str, float]
    metric: str
    current: Mapping[str, float] | None
    reasons: list[str]
    strict: bool

    def lacks(self, name: str) -> bool | None:
        """What a condition is that asks for a metric without a value."""
        self.reasons.append(f"there is no {name}")
        return None if self.strict else False


class GateCondition(Protocol):
    """Condition that holds, does not, or is unknown (None) for want of a number."""

    def holds(self, facts: Facts) -> bool | None: ...


class Group:
    """Conditions in a logical expression, of which number i is `holds(i)`."""

    def __init__(self, expression: LogicalExpression, conditions: Sequence[GateCondition]) -> None:
        self._expression = expression
        self._conditions = conditions

    def holds(self, facts: Facts) -> bool | None:
        return self._expression.of(lambda number: self._conditions[number].holds(facts))


class Comparison:
    """Comparison of metrics and numbers. `names`: its variables, and the metrics that they are."""

    def __init__(
        self,
        comparison: NumberComparison,
        left: Sequence[Token],
        symbol: str,
        right: Sequence[Token],
        names: Mapping[str, str],
    ) -> None:
        self._comparison = comparison
        self._left, self._symbol, self._right = left, symbol, right
        self._names = names

    def holds(self, facts: Facts) -> bool | None:
        values = {}
        for variable, name in self._names.items():
            value = facts.known.get(name)
            if value is None:
                return facts.lacks(name)
            values[variable] = value
        left, right = _spelled(self._left, facts.known), _spelled(self._right, facts.known)
        found = self._comparison.of(values)
        if found is None:
            facts.reasons.append(f"one side of {left} {self._symbol} {right} is not a number")
        else:
            facts.reasons.append(f"{left} {'is' if found else 'is not'} {self._symbol} {right}")
        return found


class NotWorse:
    """Condition that the metric which decides is not worse than the current version's."""

    def holds(self, facts: Facts) -> bool | None:
        metric, current = facts.metric, facts.current
        before = None if current is None else current.get(metric)
        if before is None:
            lacks = "there is no current version" if current is None else "the current version has no value"
            facts.reasons.append(f"{lacks} to be worse than")
            return True
        now = facts.known.get(metric)
        if now is None:
            return facts.lacks(metric)
        if math.isnan(now) or math.isnan(before):
            facts.reasons.append(f"{metric} {now:.4g} and the current {before:.4g} are not both numbers")
            return None
        worse = is_better(metric, before, now)
        facts.reasons.append(
            f"{metric} {now:.4g} is {'' if worse else 'not '}worse than the current {before:.4g}"
        )
        return not worse


def _spelled(tokens: Sequence[Token], known: Mapping[str, float]) -> str:
    words = []
    for token in tokens:
        if token.kind == "name":
            words.append(f"{token.text} {known[token.text]:.4g}")
        else:
            words.append("×" if token.text == "*" else token.text)
    return " ".join(words).replace("( ", "(").replace(" )", ")")
