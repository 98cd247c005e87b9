"""Gates: what a version's metrics must be for a status, in the Common Expression Language (CEL).

    rmse <= 0.98 * current.rmse && (current.ndcg@10 - ndcg@10) / current.ndcg@10 < 0.02

Of CEL a gate has numbers, arithmetic, comparisons and logic. Beside them it has

- the names of metrics as they are, such as recall@10; a minus that follows one stands after a space
- numbers without a fraction where CEL has to have one
- the words and, or, not for the signs; not is of the whole comparison after it
- "not worse than the current one"

`current` is the version in production, `baseline` the biases alone, `popular` the most popular items. What there is no
value for is not fulfilled, and what is not a number opens no gate; but nothing is worse than a current one that is not
there, or was not measured.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from itertools import accumulate
from typing import NamedTuple

from bandit_serve.errors import InvalidInput
from bandit_serve.training.cel import LogicalExpression, NotCel, NumberVariables
from bandit_serve.training.gate_conditions import Comparison, Facts, GateCondition, Group, NotWorse
from bandit_serve.training.gate_tokens import COMPARISONS, Token, split

CURRENT = "current."
MAX_DEPTH = 50
MAX_NAMED = 10


class Verdict(NamedTuple):
    """Verdict of a gate, open or not, with the reason for the history."""

    open: bool
    reason: str


class Gate:
    """Condition on metrics. `InvalidInput` for text that is not one, with the place from which it can not be read.

    `names` are the metrics that it asks for, as they stand there. `compares`: whether it says "not worse". Raises
    `NotInstalled` without the extra `gates`.
    """

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        self._tokens = split(self.text)
        self._partners = self._parentheses()
        self._decisive_before = list(accumulate(map(_is_decisive, self._tokens), initial=0))
        self.names = {token.text for i, token in enumerate(self._tokens) if self._is_metric(i)}
        self.compares = any(token.kind == "worse" for token in self._tokens)
        self._variables = {name: f"m{i}" for i, name in enumerate(sorted(self.names))}
        self._numbers = NumberVariables(self._variables.values())
        self._condition = self._group(0, len(self._tokens), 1)

    def check(
        self,
        metrics: Mapping[str, float],
        metric: str,
        current: Mapping[str, float] | None,
        *,
        strict: bool = False,
    ) -> Verdict:
        """Verdict on a version with these metrics; `metric` is the one that "worse" compares.

        strict: what there is no value for fulfils neither a comparison nor its opposite. Without it the opposite is
        fulfilled, so that one gate with "not" may be for families of which some do not have the metric.
        """
        known = dict(metrics)
        if current is not None:
            known |= {f"{CURRENT}{name}": value for name, value in current.items()}
        reasons: list[str] = []
        is_open = self._condition.holds(Facts(known, metric, current, reasons, strict)) is True
        return Verdict(is_open, "; ".join(dict.fromkeys(reasons)))

    def require_known(self, names: Collection[str], *, any_current: bool = False) -> None:
        """Raises `InvalidInput` for the first metric that is not one of `names`, with its place.

        any_current: whatever the version in production has may be asked for, too.
        """
        for i, token in enumerate(self._tokens):
            if not self._is_metric(i) or token.text in names:
                continue
            if not (any_current and token.text.startswith(CURRENT)):
                nearest = get_close_matches(token.text, names, MAX_NAMED, 0.0)
                blank = ", and a blank before a minus" if "-" in token.text else ""
                raise self._fault(i, f"expected a metric such as {', '.join(nearest)}{blank}")

    def _parentheses(self) -> dict[int, int]:
        """Places of the parentheses that close, by those of the ones that open."""
        partners, opened = dict[int, int](), list[int]()
        for i, token in enumerate(self._tokens):
            if token.text == "(":
                opened.append(i)
            elif token.text == ")":
                if not opened:
                    raise self._fault(i, "no parenthesis is open")
                partners[opened.pop()] = i
        if opened:
            raise self._fault(
                len(self._tokens), f"expected ) for the parenthesis of character {self._at(opened[-1])}"
            )
        return partners

    def _group(self, start: int, end: int, depth: int) -> GateCondition:
        """Condition that the tokens from `start` to before `end` are, `depth` levels deep."""
        texts, places, conditions = list[str](), list[int](), list[GateCondition]()
        i, nots = start, 0
        while i < end:
            if depth + nots > MAX_DEPTH:
                raise self._fault(i, "it is nested too deeply")
            token = self._tokens[i]
            places.append(i)
            if token.sign in ("&&", "||") or self._negates(i):
                texts.append(token.sign)
                nots = nots + 1 if token.sign == "!" else 0
                i += 1
                continue
            texts.append(f"holds({len(conditions)})")
            if token.kind == "worse":
                conditions.append(NotWorse())
                i += 1
            elif self._is_group(i):
                conditions.append(self._group(i + 1, self._partners[i], depth + nots + 1))
                i = self._partners[i] + 1
            else:
                stop = self._end_of_comparison(i, end)
                conditions.append(self._comparison(i, stop))
                i = stop
        try:
            return Group(LogicalExpression(" ".join(texts)), conditions)
        except NotCel as error:
            raise self._fault(_place(texts, [*places, end], error.at), error.what) from None

    def _comparison(self, start: int, end: int) -> GateCondition:
        tokens = self._tokens[start:end]
        signs = [i for i, token in enumerate(tokens) if token.text in COMPARISONS]
        if not signs:
            raise self._fault(end, f"expected one of {' '.join(COMPARISONS)}")
        if len(signs) > 1:
            raise self._fault(start + signs[1], "expected and, or, or the end")
        (middle,) = signs
        names, texts = dict[str, str](), list[str]()
        for i, token in enumerate(tokens, start):
            if self._is_metric(i):
                texts.append(self._variables[token.text])
                names[texts[-1]] = token.text
            else:
                texts.append(token.literal if token.kind == "number" else token.text)
        left, right = " ".join(texts[:middle]), " ".join(texts[middle + 1 :])
        try:
            comparison = self._numbers.comparison(left, tokens[middle].text, right)
        except NotCel as error:
            raise self._fault(_place(texts, range(start, end + 1), error.at), error.what) from None
        return Comparison(comparison, tokens[:middle], tokens[middle].text, tokens[middle + 1 :], names)

    def _end_of_comparison(self, start: int, end: int) -> int:
        i = start
        while i < end and not (
            self._tokens[i].kind in ("word", "worse") or self._tokens[i].sign in ("&&", "||")
        ):
            if self._is_group(i):
                break
            i = self._partners.get(i, i) + 1
        return i

    def _is_metric(self, i: int) -> bool:
        is_called = i + 1 < len(self._tokens) and self._tokens[i + 1].text == "("
        return self._tokens[i].kind == "name" and not is_called

    def _is_group(self, i: int) -> bool:
        """Whether a parenthesis around conditions opens here, and not one around numbers."""
        end = self._partners.get(i)
        return end is not None and self._decisive_before[end] > self._decisive_before[i]

    def _negates(self, i: int) -> bool:
        """Whether a condition is negated here: by the word, or by the sign before what is no comparison."""
        while i < len(self._tokens) and self._tokens[i].text == "!":
            i += 1
            if i < len(self._tokens) and (self._tokens[i].kind == "worse" or self._is_group(i)):
                return True
        return i < len(self._tokens) and self._tokens[i].text == "not"

    def _at(self, i: int) -> int:
        return self._tokens[i].at + 1

    def _fault(self, i: int, what: str) -> InvalidInput:
        """Fault at a token, or at the end of the text."""
        if i == len(self._tokens):
            return InvalidInput(f"The gate {self.text!r} is not one: {what or 'it ends too early'}.")
        where = f"at {self._tokens[i].text!r}, character {self._at(i)}"
        return InvalidInput(
            f"The gate {self.text!r} is not one {where}: {what or 'it can not go on like this'}."
        )


def _is_decisive(token: Token) -> bool:
    return token.kind == "worse" or token.text in COMPARISONS


def _place(texts: Sequence[str], places: Sequence[int], at: int) -> int:
    """Place of the text that has the character `at` of all texts with blanks between them; the last for their end."""
    starts = list(accumulate((len(text) + 1 for text in texts), initial=0))
    return places[-1] if at >= starts[-1] - 1 else places[bisect_right(starts, at) - 1]
