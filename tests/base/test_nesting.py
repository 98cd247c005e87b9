"""Nesting of documents, as objects and as JSON texts."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.base import nesting
from bandit_serve.base.nesting import MAX_LEVELS, nesting_error, nesting_error_of_json
from bandit_serve.errors import FieldError

LEVELS = (1, 2, MAX_LEVELS - 1, MAX_LEVELS, MAX_LEVELS + 1, 250, 600, 5_000, 200_000)
SHAPES = {
    "lists": ("[", "]"),
    "objects": ('{"a":', "}"),
    "rules": ('{"all":[', "]}"),
    "spaced": ("[ 1,\n", " ]"),
}
TEXTS = st.text(st.sampled_from('ab[]{}"\\,: é'))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=30,
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("times", LEVELS)
def test_a_text_is_refused_from_one_level_too_many_on(shape: str, times: int) -> None:
    opening, closing = SHAPES[shape]
    levels = times * (opening.count("[") + opening.count("{"))
    content = (opening * times + "0" + closing * times).encode()
    error = nesting_error_of_json(content)
    assert (error is not None) == (levels > MAX_LEVELS)
    if levels <= 250:
        assert nesting_error(json.loads(content)) == error


@given(DOCUMENTS, st.integers(1, 4), st.booleans())
def test_a_text_and_its_object_have_the_same_error(document: Any, most: int, compact: bool) -> None:
    text = msgspec.json.encode(document) if compact else json.dumps(document, indent=1).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nesting, "MAX_LEVELS", most)
        error, of_text = nesting_error(document), nesting_error_of_json(text)
    assert (error is not None) == (of_text is not None) == (depth(document) > most)


@pytest.mark.parametrize(
    ("before", "at"),
    [
        ("", "[0][0][0]"),
        ('{"a":', "a[0][0]"),
        ('{"id": "[{", "arms": [{"payload": 1}, {"name": "x]\\"", "payload":', "arms[1].payload"),
        ('{"a": {"b": {"c": {"d":', "a.b.c"),
    ],
)
def test_an_error_names_the_outermost_steps(before: str, at: str) -> None:
    content = (before + "[" * 150).encode()
    assert nesting_error_of_json(content) == FieldError(at, nesting.TOO_DEEP)
    assert nesting_error_of_json(content, "metadata") == FieldError(
        f"metadata{'' if at.startswith('[') else '.'}{at}", nesting.TOO_DEEP
    )


def test_what_is_no_json_has_an_error_without_a_place() -> None:
    assert nesting_error_of_json(b"nonsense" + b"[" * 150, "here") == FieldError("here", nesting.TOO_DEEP)


def test_a_document_within_itself_is_too_deep() -> None:
    endless: dict[str, Any] = {"id": "x"}
    endless["b"] = [1, endless]
    assert nesting_error(endless) == FieldError("b[1].b", nesting.TOO_DEEP)


def test_what_is_in_a_document_many_times_is_walked_once_a_level() -> None:
    shared: Any = 0
    for _ in range(MAX_LEVELS):
        shared = [shared] * 1_000
    assert nesting_error(shared) is None
    assert nesting_error([shared]) is not None
