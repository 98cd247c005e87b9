"""A worker's row of counters: each figure in its place, and none beside it."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.server._counter_row import CounterRow

BOUNDS = (0.001, 0.01, 0.1)
PER_HISTOGRAM = len(BOUNDS) + 2
SCALARS = {"a": 0, "b": 1}
ROUTES = {"GET /": 2, "POST /": 2 + 3 + PER_HISTOGRAM}
APPENDS = 2 + 2 * (3 + PER_HISTOGRAM)
WIDTH = APPENDS + PER_HISTOGRAM

seconds = st.one_of(
    st.sampled_from([0.0, math.inf, *BOUNDS, *(math.nextafter(bound, 1.0) for bound in BOUNDS)]),
    st.floats(0.0, 1.0),
)


statuses = st.sampled_from([200, 304, 399, 400, 499, 500, 503])


def made(row: array[float]) -> CounterRow:
    return CounterRow(memoryview(row), SCALARS, ROUTES, APPENDS, array("d", BOUNDS))


@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("request"),
                st.sampled_from([*ROUTES]),
                statuses,
                seconds,
            ),
            st.tuples(st.just("append"), seconds),
            st.tuples(st.just("add"), st.sampled_from([*SCALARS]), st.floats(-1e6, 1e6)),
            st.tuples(st.just("set"), st.sampled_from([*SCALARS]), st.floats(-1e6, 1e6)),
        ),
        max_size=50,
    )
)
def test_what_is_counted_is_in_its_place(calls: list[tuple[str, ...]]) -> None:
    row, expected = array("d", [0.0] * WIDTH), [0.0] * WIDTH
    counters = made(row)
    for name, *arguments in calls:
        getattr(counters, name)(*arguments)
        if name == "add":
            expected[SCALARS[arguments[0]]] += arguments[1]
        elif name == "set":
            expected[SCALARS[arguments[0]]] = arguments[1]
        else:
            took_s = arguments[-1]
            start = APPENDS
            if name == "request":
                route, status, _ = arguments
                expected[ROUTES[route] + (0 if status < 400 else 1 if status < 500 else 2)] += 1.0
                start = ROUTES[route] + 3
            expected[start + bisect_left(BOUNDS, took_s)] += 1.0
            expected[start + PER_HISTOGRAM - 1] += took_s
    assert row.tolist() == expected


@pytest.mark.parametrize(
    ("scalars", "routes", "appends"),
    [
        ({"a": WIDTH}, ROUTES, APPENDS),
        ({"a": -1}, ROUTES, APPENDS),
        (SCALARS, {"GET /": WIDTH - PER_HISTOGRAM - 2}, APPENDS),
        (SCALARS, {"GET /": -1}, APPENDS),
        (SCALARS, ROUTES, APPENDS + 1),
        (SCALARS, ROUTES, -1),
    ],
)
def test_places_beyond_the_row_are_refused(
    scalars: dict[str, int], routes: dict[str, int], appends: int
) -> None:
    row = array("d", [0.0] * WIDTH)
    with pytest.raises(ValueError, match="a place for each counter"):
        CounterRow(memoryview(row), scalars, routes, appends, array("d", BOUNDS))


def test_names_that_are_not_there_are_errors() -> None:
    counters = made(array("d", [0.0] * WIDTH))
    for call in (
        lambda: counters.add("c"),
        lambda: counters.set("c", 1.0),
        lambda: counters.request("c", 200, 0.1),
    ):
        with pytest.raises(KeyError):
            call()
