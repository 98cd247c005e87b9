"""Documents that callers give us to keep."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.base.documents import MAX_DOCUMENT_BYTES, MAX_DOCUMENT_DEPTH, document_fault

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
documents = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def nested(levels: int) -> Any:
    document: Any = 0
    for level in range(levels - 1):
        document = [document] if level % 2 else {"in": document}
    return document


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (2**64, "expected whole numbers of at most 64 bits"),
        ({"a": [0, -(2**63) - 1]}, "expected whole numbers of at most 64 bits"),
        (nested(MAX_DOCUMENT_DEPTH + 1), "expected at most 64 levels"),
        ("x" * (MAX_DOCUMENT_BYTES - 1), "expected at most 65536 bytes"),
    ],
    ids=["above", "below", "deep", "large"],
)
def test_a_document_that_can_not_be_kept_is_refused(document: Any, expected: str) -> None:
    assert document_fault(document) == expected


@pytest.mark.parametrize(
    "document",
    [None, {}, [], True, 2**64 - 1, -(2**63), nested(MAX_DOCUMENT_DEPTH), "x" * (MAX_DOCUMENT_BYTES - 2)],
    ids=["none", "object", "array", "true", "largest", "smallest", "deepest", "longest"],
)
def test_a_document_at_the_limits_is_kept(document: Any) -> None:
    assert document_fault(document) is None


@given(documents)
def test_what_is_not_refused_survives_the_log(document: Any) -> None:
    if document_fault(document) is None:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(document)) == document
