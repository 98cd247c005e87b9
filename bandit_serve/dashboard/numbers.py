"""Values of an answer of the API as a page shows them: each in an element that names its place in the answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from markupsafe import Markup, escape

Leaf = str | int | float | bool | None

NOTHING = "–"
MAX_DECIMALS = 8
GROUPED_FROM = 10_000
"""Whole numbers from here on are set in groups of three digits, without a character between them."""


class ShownNumbers:
    """Values of an `answer` by their paths. Each is shown once, so that a path names one element of a page.

    A path is that in the JSON, with dots between its parts; entries of a list that have a name go by it. `kind` names
    the attribute that has it: `name` for results, which a page says most about.
    """

    def __init__(self, answer: Mapping[str, Any], kind: str = "name") -> None:
        self._kind = kind
        self._values: dict[str, Leaf] = dict(leaves(answer))
        self._left = dict.fromkeys(self._values)

    def __contains__(self, path: str) -> bool:
        return path in self._values

    def value(self, path: str) -> Leaf:
        """Value at a path; None where there is none."""
        return self._values.get(path)

    def show(self, path: str, decimals: int | None = None, *, sign: bool = False, shown: str = "") -> Markup:
        """Element with the value at a path, rounded; empty where the answer has no such path, or it was shown before.

        `shown` stands in place of a text, such as a name that is said in words.
        """
        if path not in self._left:
            return Markup("")
        del self._left[path]
        value = self._values[path]
        return Markup('<span class="n" data-{}="{}" data-value="{}">{}</span>').format(
            self._kind,
            path,
            msgspec.json.encode(value).decode(),
            shown or text_of(value, decimals, sign=sign),
        )

    def interval(self, path: str, decimals: int | None = None, *, sign: bool = False) -> Markup:
        """Both ends of an interval, or nothing known; empty where the answer has no such path."""
        if path in self._values:
            return self.show(path)
        low, high = (self.show(f"{path}.{end}", decimals, sign=sign) for end in (0, 1))
        return (
            Markup('<span class="ends">{}<span class="to"> to </span>{}</span>').format(low, high)
            if low
            else low
        )

    def left(self) -> list[str]:
        """Paths that were not shown yet."""
        return list(self._left)


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, Leaf]]:
    """Paths and values of all that is neither a list nor an object."""
    if isinstance(content, Mapping):
        for name, each in content.items():
            yield from leaves(each, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list | tuple):
        for place, each in enumerate(content):
            named = each.get("name") if isinstance(each, Mapping) else None
            rest = {key: part for key, part in each.items() if key != "name"} if named is not None else each
            yield from leaves(rest, f"{path}.{place if named is None else named}")
    else:
        yield path, content


def decimals_of(values: Iterable[Leaf], digits: int = 4) -> int | None:
    """Decimals with which the largest of `values` has so many digits; None where they are too small for that."""
    sizes = [abs(each) for each in values if isinstance(each, float) and math.isfinite(each) and each]
    if not sizes:
        return 2
    decimals = digits - 1 - math.floor(math.log10(max(sizes)))
    return None if decimals > MAX_DECIMALS else max(decimals, 0)


def text_of(value: Leaf, decimals: int | None = None, *, sign: bool = False) -> Markup:
    """A value as text. A float has so many `decimals`, or else three digits that say something."""
    if value is None:
        return Markup(NOTHING)
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, str):
        return escape(value)
    text = str(value) if isinstance(value, int) else _rounded(value, decimals)
    plus = "+" if sign and value > 0 else ""
    return Markup(plus) + _grouped(text)


def _rounded(value: float, decimals: int | None) -> str:
    if decimals is None:
        text = f"{value:.3g}"
        return f"{value:.0f}" if "e+" in text and abs(value) < 1e15 else text
    return f"{value:.{decimals}f}"


def _grouped(text: str) -> Markup:
    whole, dot, rest = text.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    if not digits.isdecimal() or int(digits) < GROUPED_FROM:
        return Markup(text)
    first = len(digits) % 3 or 3
    groups = [digits[i : i + 3] for i in range(first, len(digits), 3)]
    spaced = Markup("").join(Markup('<span class="k">{}</span>').format(group) for group in groups)
    return Markup("{}{}{}{}{}").format(sign, digits[:first], spaced, dot, rest)
