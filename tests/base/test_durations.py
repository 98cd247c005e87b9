"""Durations as they are written."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.base.durations import DURATION_PATTERN, parse_duration_ms
from bandit_serve.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("50ms", 50),
        ("90s", 90_000),
        ("15m", 900_000),
        ("24h", 86_400_000),
        ("7d", 604_800_000),
        ("0s", 0),
        ("1.5s", 1_500),
        ("0.25h", 900_000),
        ("1.4ms", 1),
        ("999999999d", 999_999_999 * 86_400_000),
    ],
)
def test_known_values(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms
    assert re.search(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "s",
        "1 s",
        " 1s",
        "1s ",
        "1s\n",
        "-1s",
        "+1s",
        "1S",
        "1w",
        "1e3s",
        ".5s",
        "1.s",
        "٣s",
        "1s2m",
        "1234567890s",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="duration"):
        parse_duration_ms(text)
    assert not re.search(DURATION_PATTERN, text)


@given(st.text(max_size=12))
def test_the_pattern_and_the_reading_agree(text: str) -> None:
    try:
        parse_duration_ms(text)
    except InvalidInput:
        assert not re.search(DURATION_PATTERN, text)
    else:
        assert re.search(DURATION_PATTERN, text)


def test_a_long_text_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_duration_ms("x" * 10_000)
    assert len(str(refused.value)) < 200
