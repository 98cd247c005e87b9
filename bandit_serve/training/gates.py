"""Gates: what a version's metrics must be for a status.

    expression  =  all { "or" all }
    all         =  one { "and" one }
    one         =  "not" one | "(" expression ")" | value comparison value
                |  "not worse than the current one"
    comparison  =  "<=" | "<" | ">=" | ">" | "==" | "!="
    value       =  [ a number "*" ] a number, or the name of a metric, such as rmse, recall@10, baseline.rmse

`current` is the version in production, `baseline` the biases alone, `popular` the most popular items. What there is
no value for is not fulfilled; but nothing is worse than a current one that is not there.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bandit_serve.errors import InvalidInput
from bandit_serve.training.metrics import is_better

TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|([A-Za-z_][\w.@-]*)|(<=|>=|==|!=|<|>|\(|\)|\*))")
NOT_WORSE = ("not", "worse", "than", "the", "current", "one")
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
MAX_DEPTH = 50


class Verdict(NamedTuple):
    """Verdict of a gate, open or not, with the reason for the history."""

    open: bool
    reason: str


class Gate:
    """Condition on metrics. `InvalidInput` for text that is not one, with the place from which it can not be read."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self._tokens = self._split(text)
        self._at = 0
        self._depth = 0
        self._condition = self._any()
        if self._at < len(self._tokens):
            raise self._fault("expected and, or, or the end")

    def check(
        self, metrics: Mapping[str, float], metric: str, current: Mapping[str, float] | None
    ) -> Verdict:
        """Verdict on a version with these metrics; `metric` is the one that "worse" compares."""
        known = dict(metrics)
        if current is not None:
            known |= {f"current.{name}": value for name, value in current.items()}
        reasons: list[str] = []
        is_open = self._condition(_Facts(known, metric, current, reasons))
        return Verdict(is_open, "; ".join(dict.fromkeys(reasons)))

    def _split(self, text: str) -> list[str]:
        tokens, at = [], 0
        while text[at:].strip():
            match = TOKEN.match(text, at)
            if match is None:
                raise InvalidInput(f"The gate {text!r} can not be read from {text[at:].strip()[:20]!r} on.")
            tokens.append(match[1] or match[2] or match[3])
            at = match.end()
        if not tokens:
            raise InvalidInput("A gate must not be empty.")
        return tokens

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> str:
        token = self._peek()
        if token is None:
            raise self._fault("it ends too early")
        self._at += 1
        return token

    def _fault(self, what: str) -> InvalidInput:
        where = f" at {self._tokens[self._at]!r}" if self._at < len(self._tokens) else ""
        return InvalidInput(f"The gate {' '.join(self._tokens)!r} is not one{where}: {what}.")

    def _any(self) -> _Condition:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._fault("it is nested too deeply")
        parts = [self._all()]
        while self._peek() == "or":
            self._next()
            parts.append(self._all())
        self._depth -= 1
        return lambda facts: any(part(facts) for part in parts)

    def _all(self) -> _Condition:
        parts = [self._one()]
        while self._peek() == "and":
            self._next()
            parts.append(self._one())
        return lambda facts: all(part(facts) for part in parts)

    def _one(self) -> _Condition:
        if tuple(self._tokens[self._at : self._at + len(NOT_WORSE)]) == NOT_WORSE:
            self._at += len(NOT_WORSE)
            return _Facts.not_worse
        if self._peek() == "not":
            self._next()
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise self._fault("it is nested too deeply")
            negated = self._one()
            self._depth -= 1
            return lambda facts: not negated(facts)
        if self._peek() == "(":
            self._next()
            inner = self._any()
            if self._next() != ")":
                self._at -= 1
                raise self._fault("expected )")
            return inner
        left = self._value()
        symbol = self._next()
        if symbol not in COMPARISONS:
            self._at -= 1
            raise self._fault(f"expected one of {' '.join(COMPARISONS)}")
        right = self._value()
        return lambda facts: facts.compare(left, symbol, right)

    def _value(self) -> _Value:
        token = self._operand()
        if self._peek() != "*":
            return _Value(token)
        if not token[0].isdigit():
            raise self._fault("expected a number before *")
        self._next()
        return _Value(self._operand(), float(token))

    def _operand(self) -> str:
        token = self._next()
        if token in ("and", "or", "not", "(", ")", "*") or token in COMPARISONS:
            self._at -= 1
            raise self._fault("expected a metric or a number")
        return token


class _Value(NamedTuple):
    """Number or a metric, times a factor."""

    token: str
    factor: float = 1.0

    def of(self, known: Mapping[str, float]) -> float | None:
        value = float(self.token) if self.token[0].isdigit() else known.get(self.token)
        return None if value is None else self.factor * value

    def spelled(self, known: Mapping[str, float]) -> str:
        times = "" if self.factor == 1.0 else f"{self.factor:g} × "
        return times + (self.token if self.token[0].isdigit() else f"{self.token} {known[self.token]:.4g}")


class _Facts(NamedTuple):
    """Metrics that a condition is checked against; `told` collects what it found."""

    known: Mapping[str, float]
    metric: str
    current: Mapping[str, float] | None
    reasons: list[str]

    def compare(self, left: _Value, symbol: str, right: _Value) -> bool:
        values = list[float]()
        for side in (left, right):
            value = side.of(self.known)
            if value is None:
                self.reasons.append(f"there is no {side.token}")
                return False
            values.append(value)
        fulfilled = COMPARISONS[symbol](*values)
        names = [side.spelled(self.known) for side in (left, right)]
        self.reasons.append(f"{names[0]} {'is' if fulfilled else 'is not'} {symbol} {names[1]}")
        return fulfilled

    def not_worse(self) -> bool:
        now = self.known.get(self.metric)
        before = None if self.current is None else self.current.get(self.metric)
        if before is None:
            self.reasons.append("there is no current version to be worse than")
            return True
        if now is None:
            self.reasons.append(f"there is no {self.metric}")
            return False
        worse = is_better(self.metric, before, now)
        self.reasons.append(
            f"{self.metric} {now:.4g} is {'' if worse else 'not '}worse than the current {before:.4g}"
        )
        return not worse


_Condition = Callable[[_Facts], bool]
