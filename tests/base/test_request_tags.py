"""Tags of requests: which values are taken, and what is handed on."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.base.request_tags import RequestTags, current_tags, request_tags, tagged

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_trace_goes_on_with_a_span_of_our_own() -> None:
    tags = request_tags("req-1", GOOD, "vendor=x")
    assert tags is not None
    headers = tags.headers()
    assert headers["X-Request-ID"] == "req-1"
    assert headers["tracestate"] == "vendor=x"
    match = re.fullmatch(rf"00-{TRACE}-([0-9a-f]{{16}})-01", headers["traceparent"])
    assert match is not None
    assert match[1] not in (SPAN, "0" * 16)
    again = request_tags(None, GOOD, None)
    assert again is not None
    assert again.span_id != tags.span_id


@pytest.mark.parametrize(
    "parent",
    [
        "",
        GOOD.upper(),
        GOOD[:-1],
        f"{GOOD}-extra",
        f"{GOOD}0",
        f" {GOOD}",
        f"{GOOD}\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"0g-{TRACE}-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
    ],
)
def test_a_malformed_trace_is_not_taken(parent: str) -> None:
    assert request_tags(None, parent, "vendor=x") is None
    assert request_tags("r", parent, "vendor=x") == RequestTags("r", None, None, "00", None)


@pytest.mark.parametrize("parent", [f"01-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-00-what.comes.later"])
def test_a_later_version_is_read_as_far_as_it_is_known(parent: str) -> None:
    tags = request_tags(None, parent, None)
    assert tags is not None
    assert tags.trace_id == TRACE
    assert tags.headers()["traceparent"].startswith(f"00-{TRACE}-")


@given(id=st.text(max_size=140), parent=st.text(max_size=60), state=st.text(max_size=600))
def test_nothing_that_breaks_a_header_is_handed_on(id: str, parent: str, state: str) -> None:
    for given_parent in (parent, GOOD):
        tags = request_tags(id, given_parent, state)
        for value in () if tags is None else tags.headers().values():
            assert re.fullmatch(r"[ -~]{1,512}", value)


@pytest.mark.parametrize(
    ("id", "taken"), [("a" * 128, True), ("a" * 129, False), ("a b", False), ("é", False)]
)
def test_an_id_is_of_printable_characters(id: str, taken: bool) -> None:
    assert (request_tags(id, None, None) is not None) == taken


def test_the_tags_are_those_of_the_block() -> None:
    tags = request_tags("outer", None, None)
    with tagged(tags):
        assert current_tags() is tags
        with tagged(None):
            assert current_tags() is tags
        with tagged(request_tags("inner", None, None)):
            assert current_tags() != tags
        assert current_tags() is tags
    assert current_tags() is None
