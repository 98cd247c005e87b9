"""Names that users choose here, and names from outside."""

from __future__ import annotations

import msgspec
import pytest

from bandit_serve.base.names import Name, check_all_outside, check_outside, is_name
from bandit_serve.errors import InvalidInput

GIVEN = ["a", "0", "A-b_c.d", "x" * 128]
NOT_GIVEN = [
    "",
    "-a",
    ".a",
    "_a",
    "x" * 129,
    "a b",
    "a/b",
    "a:b",
    "{a}",
    "ä",
    "a\n",
    "a\n\n",
    "\na",
    "a\x00",
    "ａ",
]
OUTSIDE = [
    "a",
    " ",
    "-",
    "user@example.com",
    "é" * 128,
    "馬" * 85,
    "\U0001f600",
    "x" * 256,
    "a\u2028b",
    "\xa0",
]
NOT_OUTSIDE = ["", "x" * 257, "é" * 129, "a\nb", "\x00", "\x1f", "\x7f", "\x80", "\x9f", "a\x85", "\ud800"]


@pytest.mark.parametrize("text", GIVEN)
def test_what_may_be_given(text: str) -> None:
    assert is_name(text)
    assert msgspec.json.decode(msgspec.json.encode(text), type=Name) == text


@pytest.mark.parametrize("text", NOT_GIVEN)
def test_what_may_not_be_given(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(text), type=Name)


@pytest.mark.parametrize("text", OUTSIDE)
def test_what_may_come_from_outside(text: str) -> None:
    check_outside(text, "unit")
    check_all_outside([text, text], "units")


@pytest.mark.parametrize("text", NOT_OUTSIDE)
def test_what_may_not_come_from_outside_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match="unit") as refused:
        check_outside(text, "unit")
    assert [error.at for error in refused.value.errors] == ["unit"]
    with pytest.raises(InvalidInput) as refused:
        check_all_outside(["fine", "fine", text, ""], "item_ids")
    assert [error.at for error in refused.value.errors] == ["item_ids[2]"]


def test_no_names_are_fine() -> None:
    check_all_outside([], "item_ids")
