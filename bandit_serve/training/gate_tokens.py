"""Tokens of a gate: the names, numbers, words and signs that it is made of."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from bandit_serve.errors import InvalidInput

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][\w.@-]*)"
    r"|(?P<sign><=|>=|==|!=|&&|\|\||[<>!()+\-*/%]))"
)
COMPARISONS = ("<=", "<", ">=", ">", "==", "!=")
WORDS = {"and": "&&", "or": "||", "not": "!"}
"""Signs that words stand for."""
NOT_WORSE = ["not", "worse", "than", "the", "current", "one"]
MAX_CHARS = 10_000


class Token(NamedTuple):
    """Token at a place in the text. `kind`: number, name, word, sign, or "worse" for all of "not worse than …"."""

    kind: str
    text: str
    at: int

    @property
    def sign(self) -> str:
        """Sign that it is or stands for, empty for what is none."""
        return self.text if self.kind == "sign" else WORDS.get(self.text, "")

    @property
    def literal(self) -> str:
        """A number as CEL writes one that has a fraction, so that it compares with any metric."""
        number = float(self.text)
        return repr(number) if math.isfinite(number) else "1e999"


def split(text: str) -> list[Token]:
    """Tokens of a gate. `InvalidInput` for text that is empty, too long or not made of them."""
    if len(text) > MAX_CHARS:
        raise InvalidInput(f"A gate has {MAX_CHARS:,} characters at most, not {len(text):,}.")
    tokens, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None:
            raise InvalidInput(f"The gate {text!r} can not be read from {text[at:].strip()[:20]!r} on.")
        kind = str(match.lastgroup)
        found = match[kind]
        tokens.append(Token("word" if found in WORDS else kind, found, match.start(kind)))
        at = match.end()
    if not tokens:
        raise InvalidInput("A gate must not be empty.")
    return _with_not_worse(tokens)


def _with_not_worse(tokens: list[Token]) -> list[Token]:
    texts = [token.text for token in tokens]
    found, i = [], 0
    while i < len(tokens):
        token = tokens[i]
        if texts[i : i + len(NOT_WORSE)] == NOT_WORSE:
            token = Token("worse", " ".join(NOT_WORSE), token.at)
            i += len(NOT_WORSE) - 1
        found.append(token)
        i += 1
    return found
