"""The two kinds of names: those that we give, and those that come from outside."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
OUTSIDE_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]+$"
OUTSIDE_MAX_BYTES = 256

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN, description="letters, digits and . _ - ; at most 128")]
OutsideName = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=OUTSIDE_MAX_BYTES,
        pattern=OUTSIDE_PATTERN,
        description="1 to 256 UTF-8 bytes without control characters",
    ),
]

_name = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")


def is_name(text: str) -> bool:
    return _name.match(text) is not None
