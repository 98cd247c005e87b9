"""Exact search against a full sort, with the processor's code and with the portable one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scale import scaled

from bandit_serve.errors import InvalidInput
from bandit_serve.models._factorization import Factorization
from bandit_serve.models._ids import IdTable
from bandit_serve.models._top_k import TopK, use_plain


@pytest.fixture(autouse=True, params=["processor", "portable"])
def code(request):
    use_plain(request.param == "portable")
    yield request.param
    use_plain(False)


def scores_of(factors, biases, vectors, bases):
    """(m, n): the scores as every family gives them, to the bit."""
    n, m = len(factors), len(vectors)
    model = Factorization()
    ids = IdTable.of([f"{row:09}" for row in range(n)]), IdTable.of([f"{row:09}" for row in range(m)])
    counts = np.ones(m, np.int32), np.ones(n, np.int32)
    model._set(0.0, vectors, factors, np.zeros(m, np.float32), biases, ids[1], ids[0], *counts)
    every = [f"{row:09}" for row in range(n)]
    return np.array(
        [model._items("", every, (base, vector)) for vector, base in zip(vectors, bases, strict=True)]
    )


def check(factors, biases, vectors, bases, k, skips=None):
    match = TopK(factors, biases).search(vectors, bases, k, skips)
    scores = scores_of(factors, biases, vectors, bases)
    for number, (rows, values) in enumerate(match):
        left = np.arange(len(factors))
        if skips is not None and skips[number] is not None:
            left = left[skips[number] == 0]
        expected = left[np.lexsort((left, -scores[number, left]))][:k]
        assert rows.tolist() == expected.tolist()
        assert values.tolist() == scores[number, expected].tolist()


def floats(*shape, scale=1.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


KINDS = {
    "normal": lambda n, f: floats(n, f),
    "long and short": lambda n, f: floats(n, f) * np.exp(2 * floats(n, 1, seed=1)),
    "few values": lambda n, f: np.sign(floats(n, f)).astype(np.float32),
    "repeated": lambda n, f: np.repeat(floats(-(-n // 7), f), 7, axis=0)[:n],
    "zero": lambda n, f: np.zeros((n, f), np.float32),
    "one long": lambda n, f: (
        floats(n, f) * np.float32(1e-3) + 1e4 * (np.arange(n) == n // 2)[:, None].astype(np.float32)
    ),
    "denormal": lambda n, f: floats(n, f) * np.float32(1e-40),
    "huge": lambda n, f: floats(n, f) * np.float32(1e15),
    "near ties": lambda n, f: (1 + floats(n, f) * np.float32(1e-7)).astype(np.float32),
    "one coordinate": lambda n, f: floats(n, f) * (np.arange(f) == 0).astype(np.float32),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=scaled(12, 300), deadline=None)
def test_it_is_the_head_of_a_full_sort(kind, data):
    n, f = (
        data.draw(st.integers(1, 700)),
        data.draw(st.sampled_from([1, 2, 3, 4, 5, 8, 31, 32, 33, 64, 65, 130])),
    )
    factors = np.ascontiguousarray(KINDS[kind](n, f), np.float32)
    seed, m = data.draw(st.integers(0, 99)), data.draw(st.integers(1, 4))
    biases = data.draw(
        st.sampled_from(
            [np.zeros(n, np.float32), floats(n, seed=2), np.round(floats(n, seed=3)), floats(n, scale=1e6)]
        )
    )
    vectors = np.ascontiguousarray(KINDS[data.draw(st.sampled_from(sorted(KINDS)))](m, f), np.float32)
    bases = [data.draw(st.sampled_from([0.0, 3.5, -1e6, 1e-9]))] * m
    skip = (np.random.default_rng(seed).random(n) < data.draw(st.sampled_from([0.0, 0.3, 1.0]))).astype(
        np.uint8
    )
    skips = data.draw(st.sampled_from([None, [skip] * m, [skip, *[None] * (m - 1)]]))
    check(factors, biases, vectors, bases, data.draw(st.sampled_from([1, 2, 10, n, n + 5])), skips)


@pytest.mark.parametrize("f", [16, 64])
def test_many_items_and_queries(f):
    factors = floats(50_000, f) * np.exp(floats(50_000, 1, seed=1))
    check(factors, floats(50_000, seed=5), floats(20, f, seed=4), [3.0] * 20, 10)


def test_no_factors_are_biases_alone_and_no_items_are_none():
    check(np.zeros((300, 0), np.float32), np.round(floats(300)), np.zeros((2, 0), np.float32), [1.0, 2.0], 10)
    rows, scores = TopK(np.zeros((0, 3), np.float32), np.zeros(0, np.float32)).search(floats(1, 3), [0.0], 5)[
        0
    ]
    assert rows.size == scores.size == 0
    assert TopK(floats(5, 3), floats(5)).search(np.zeros((0, 3), np.float32), [], 5) == []


def test_read_only_factors_work_and_others_are_refused():
    factors, biases = floats(20, 3), floats(20)
    factors.flags.writeable = biases.flags.writeable = False
    top = TopK(factors, biases)
    top.search(floats(1, 3), [0.0], 5)
    for wrong in (
        lambda: TopK(factors.astype(np.float64), biases),
        lambda: TopK(factors[:, ::2], biases),
        lambda: TopK(factors, biases[:5]),
        lambda: TopK([[1.0]], biases),
        lambda: top.search(floats(1, 4), [0.0], 5),
        lambda: top.search(floats(1, 3), [0.0], 0),
        lambda: top.search(floats(1, 3), [], 5),
        lambda: top.search(floats(1, 3), [0.0], 5, [np.zeros(19, np.uint8)]),
        lambda: top.search(floats(1, 3), [0.0], 5, [np.zeros(20)]),
    ):
        with pytest.raises(InvalidInput):
            wrong()
