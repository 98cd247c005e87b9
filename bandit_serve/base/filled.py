"""Filled body: a body in JSON in which definitions stand where it had only names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bandit_serve.errors import FieldError


class Filled(NamedTuple):
    """Body after what it names was filled in: the same object where nothing was. `errors` say what could not be."""

    body: bytes
    errors: Sequence[FieldError] = ()


Fill = Callable[[bytes], Filled]
"""Fills in a body that is not valid as it came. What is no JSON is left as it is."""
