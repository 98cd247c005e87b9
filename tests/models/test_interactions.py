"""Interactions and their kernels, against formulas."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference_interactions import ridge_row

from bandit_serve.errors import InvalidInput
from bandit_serve.models._interactions import (
    cholesky,
    counting_order,
    dense_product,
    dot_product,
    gain,
    gram,
    ridge_rows,
    sparse_product,
    upper_inverse,
)
from bandit_serve.models.interactions import ABOVE_ZERO, InteractionRule, Interactions, gram_matrix, image
from bandit_serve.models.row_threads import ROWS_A_SUM, row_threads

RANDOM = np.random.default_rng(5)
matrices = st.integers(1, 6).flatmap(
    lambda n: st.integers(1, 7).flatmap(
        lambda m: arrays(np.float32, (n, m), elements=st.sampled_from([0.0, 0.0, 1.0, 2.5, 1e-3, 1e6]))
    )
)


def sparse(dense):
    rows, columns = np.nonzero(dense)
    return Interactions.of(rows, columns, dense[rows, columns].astype(np.float64), dense.shape)


def dense(given):
    out = np.zeros((given.n_rows, given.n_columns))
    out[given.rows, given.columns] = given.weights
    return out


@given(matrices)
def test_a_matrix_is_what_its_entries_say_and_so_is_its_transposed(matrix):
    given = sparse(matrix)
    assert np.array_equal(dense(given), matrix)
    assert np.array_equal(dense(given.transposed), matrix.T)
    assert np.array_equal(given.sizes, (matrix > 0).sum(axis=1))
    assert given.starts[0] == 0
    assert given.starts[-1] == given.columns.size


def test_entries_of_one_pair_are_added_and_those_of_zero_are_none():
    rows, columns = np.array([1, 0, 1, 1, 2]), np.array([2, 0, 2, 0, 1])
    given = Interactions.of(rows, columns, np.array([1.0, 0.0, 2.0, 5.0, 0.5]), (4, 3))
    assert dense(given).tolist() == [[0, 0, 0], [5, 0, 3], [0, 0.5, 0], [0, 0, 0]]
    assert given.columns.dtype == np.int32
    assert Interactions.of(rows, columns, np.zeros(5), (4, 3)).columns.size == 0


@given(st.lists(st.integers(0, 5)), st.integers(6, 9))
def test_counting_sorts_as_a_stable_sort_does(codes, n_codes):
    order, starts = counting_order(np.array(codes, np.int64), n_codes)
    assert order.tolist() == np.argsort(np.array(codes, np.int64), kind="stable").tolist()
    assert (
        np.diff(starts).tolist() == np.bincount(codes or [0], minlength=n_codes).tolist() if codes else True
    )


@pytest.mark.parametrize("code", [-1, 3, 2**40])
def test_a_code_that_does_not_exist_is_refused(code):
    with pytest.raises(InvalidInput, match="code"):
        counting_order(np.array([0, code]), 3)


@given(matrices, st.integers(1, 5))
def test_products_are_those_of_dense_matrices(matrix, f):
    factors = np.linspace(-1, 2, matrix.shape[1] * f).reshape(-1, f).astype(np.float32)
    with row_threads(1) as threads:
        product = sparse(matrix).times(factors, threads)
    exact, size = matrix.astype(np.float64) @ factors, matrix.astype(np.float64) @ np.abs(factors)
    assert (np.abs(product - exact) <= 1e-6 * size).all()


@pytest.mark.parametrize("n", [1, 3, ROWS_A_SUM + 5])
@pytest.mark.parametrize("f", [1, 5, 16, 33])
def test_gram_matrices_and_images_are_those_of_numpy(n, f):
    x = RANDOM.normal(size=(n, f)).astype(np.float32)
    w = RANDOM.random(n).astype(np.float32)
    matrix = RANDOM.normal(size=(f, 7))
    with row_threads(1) as threads:
        np.testing.assert_allclose(gram_matrix(x, threads), x.astype(float).T @ x, rtol=1e-10, atol=1e-9)
        weighted = x.astype(float).T @ (w[:, None] * x.astype(float))
        np.testing.assert_allclose(gram_matrix(x, threads, w), weighted, rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(image(x, matrix, threads), x @ matrix, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 40])
def test_cholesky_factors_are_those_of_numpy(n):
    x = RANDOM.normal(size=(n + 3, n))
    a = x.T @ x
    np.testing.assert_allclose(cholesky(a), np.linalg.cholesky(a).T if n else a, rtol=1e-9, atol=1e-11)
    below = a.copy()
    below[np.tril_indices(n, -1)] = np.nan  # only the upper triangle is read
    assert np.array_equal(cholesky(below), cholesky(a))
    np.testing.assert_allclose(upper_inverse(cholesky(a)) @ cholesky(a), np.eye(n), atol=1e-9)


def test_a_matrix_of_a_lower_rank_has_rows_of_zero_and_no_infinity():
    x = RANDOM.normal(size=(20, 5))
    x[:, 2] = x[:, 0] - 3 * x[:, 1]
    x[:, 4] = 0.0
    factor = cholesky(x.T @ x)
    assert [bool(row.any()) for row in factor] == [True, True, False, True, False]
    np.testing.assert_allclose(factor.T @ factor, x.T @ x, atol=1e-10)
    inverse = upper_inverse(factor)
    kept = x @ inverse
    np.testing.assert_allclose(kept.T @ kept, np.diag([1.0, 1, 0, 1, 0]), atol=1e-9)
    assert not cholesky(-np.eye(3)).any()


@settings(max_examples=60)
@given(
    arrays(np.float64, (4, 9), elements=st.sampled_from([0.0, 0.0, 1.0, 3.0, 1e-4, 1e4])),
    st.sampled_from([2, 3, 20, 24]),
    st.sampled_from([0.0, 0.3, 5.0]),
)
def test_ridge_rows_are_the_regressions_of_the_paper(weights, f, confidence):
    """Rows with fewer entries than half of the factors are solved in another way, to the same result."""
    factors = np.random.default_rng(f).normal(size=(9, f))
    penalty = 0.7
    base = cholesky(factors.T @ factors + penalty * np.eye(f))
    inverse = upper_inverse(base)
    given = sparse(weights.astype(np.float32))
    out = np.full((4, f), np.nan, np.float32)
    plain = (factors @ inverse).astype(np.float32)
    targets = np.linspace(0.5, 2.0, 9).astype(np.float32)
    ridge_rows(given.starts, given.columns, given.weights, plain, targets, confidence, out, 0, 4)
    expected = np.array([ridge_row(row, factors, penalty, confidence, targets) for row in weights])
    np.testing.assert_allclose(out @ inverse.T, expected, rtol=3e-3, atol=3e-4)


def test_ridge_rows_with_huge_weights_are_finite():
    given = sparse(np.array([[1e12, 1.0, 1e-12], [1e12, 1e12, 1e12]], np.float32))
    for f in (2, 40):
        factors = RANDOM.normal(size=(3, f)).astype(np.float32)
        out = np.empty((2, f), np.float32)
        ridge_rows(
            given.starts, given.columns, given.weights, factors, np.ones(3, np.float32), 1000.0, out, 0, 2
        )
        assert np.isfinite(out).all()
        assert out[0] @ factors[0] == pytest.approx(1.0, abs=1e-3)


@given(st.integers(1, 9), st.floats(0, 100), st.floats(1e-3, 1e6))
def test_a_gain_is_that_of_a_kalman_filter(f, n, confidence):
    random = np.random.default_rng(f)
    precision, spread = (x.T @ x + np.eye(f) for x in random.normal(size=(2, f, f)))
    y = random.normal(size=f).astype(np.float32)
    along = np.linalg.solve(precision + n * spread, y.astype(np.float64))
    expected = along * confidence / (1.0 + confidence * (y @ along))
    np.testing.assert_allclose(gain(precision, spread, n, y, confidence), expected, rtol=1e-6, atol=1e-12)


def test_a_step_of_the_gain_is_a_regression_with_one_more_observation():
    y = np.array([1.0, -2.0, 0.5], np.float32)
    precision, before = np.diag([2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.3])
    after = before + gain(precision, np.zeros((3, 3)), 0, y, 5.0) * (1.0 - y @ before)
    exact = np.linalg.solve(precision + 5.0 * np.outer(y, y), precision @ before + 5.0 * y)
    np.testing.assert_allclose(after, exact, rtol=1e-12)


def test_threads_change_no_bit():
    n, m, f = 9_000, 700, 24
    rows, columns = RANDOM.integers(0, n, 40_000), RANDOM.integers(0, m, 40_000)
    given = Interactions.of(rows, columns, RANDOM.random(40_000), (n, m))
    factors = RANDOM.normal(size=(m, f)).astype(np.float32)
    targets = np.ones(m, np.float32)
    results = []
    for n_threads in (1, 2, 5):
        out = np.empty((n, f), np.float32)
        with row_threads(n_threads) as threads:
            product = given.times(factors, threads)
            threads.each(
                n,
                1e9,
                lambda begin, end, out=out: ridge_rows(
                    given.starts, given.columns, given.weights, factors, targets, 1.5, out, begin, end
                ),
            )
            parts = product, out, gram_matrix(product, threads), image(product, np.eye(f) * 3.0, threads)
        results.append(b"".join(part.tobytes() for part in parts))
    assert len(set(results)) == 1


def test_read_only_arrays_work_and_other_types_and_shapes_are_refused():
    given = sparse(np.eye(3, dtype=np.float32))
    factors, out = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    for array in (given.starts, given.columns, given.weights, factors):
        array.flags.writeable = False
    parts = given.starts, given.columns, given.weights
    sparse_product(*parts, factors, out, 0, 3)
    assert out.tolist() == [[1, 1]] * 3
    wrong = {
        "dtype": (*parts, factors.astype(np.float64), out, 0, 3),
        "starts": (given.starts.astype(np.int32), *parts[1:], factors, out, 0, 3),
        "strided": (*parts, np.ones((3, 4), np.float32)[:, ::2], out, 0, 3),
    }
    for arguments in wrong.values():
        with pytest.raises((ValueError, TypeError)):
            sparse_product(*arguments)
    refused = [
        (*parts, factors, out, 0, 4),
        (*parts, factors, out, -1, 3),
        (*parts, factors, out, 2, 1),
        (*parts, factors, np.zeros((3, 3), np.float32), 0, 3),
        (*parts, factors, np.zeros((2, 2), np.float32), 0, 3),
        (*parts, factors[:2], out, 0, 3),
        (given.starts, np.array([0, -1, 2], np.int32), given.weights, factors, out, 0, 3),
        (np.array([0, 2, 1, 3]), *parts[1:], factors, out, 0, 3),
        (np.array([0, 1, 2, 4]), *parts[1:], factors, out, 0, 3),
        (np.array([-1, 1, 2, 3]), *parts[1:], factors, out, 0, 3),
        (given.starts, given.columns, given.weights[:2], factors, out, 0, 3),
    ]
    for arguments in refused:
        with pytest.raises(InvalidInput):
            sparse_product(*arguments)
        with pytest.raises(InvalidInput):
            ridge_rows(*arguments[:4], np.ones(len(arguments[3]), np.float32), 1.0, *arguments[4:])
    for call in (
        lambda: ridge_rows(*parts, factors, np.ones(2, np.float32), 1.0, out, 0, 3),
        lambda: gram(factors, np.ones(2, np.float32), 0, 3),
        lambda: gram(factors, None, 0, 4),
        lambda: dense_product(factors, np.eye(3), out, 0, 3),
        lambda: upper_inverse(np.zeros((2, 3))),
        lambda: cholesky(np.zeros((2, 3))),
        lambda: gain(np.eye(2), np.eye(3), 1, factors[0], 1.0),
        lambda: gain(np.eye(3), np.eye(3), 1, factors[0], 1.0),
        lambda: dot_product(factors[0], np.ones(3, np.float32)),
    ):
        with pytest.raises(InvalidInput):
            call()


@pytest.mark.parametrize(
    ("ratings", "share", "least"),
    [
        ([1, 1, 1], 0.5, 1),
        ([0, 1, 0, 1], 0.5, 1),
        ([0, 0, 0, 1], 1.0, 1),
        ([1, 2, 3, 4], 0.5, 3),
        ([1, 2, 3, 4], 1.0, 1),
        ([1, 2, 3, 4], 0.0, 4),
        ([5, 5, 5, 1], 0.5, 5),
        ([-2, -1, -1], 0.5, -1),
        ([-2, -1, 3, 4], 0.5, 4),
        ([-2, -1, 3, 4], 1.0, 3),
    ],
)
def test_interactions_are_the_ratings_above_zero_that_no_more_than_a_share_reach(ratings, share, least):
    rule = InteractionRule.of(np.array(ratings, np.float64), share, 0.0)
    assert rule.least == least
    assert rule.weights(np.array(ratings, np.float64)).tolist() == [float(one >= least) for one in ratings]
    assert rule.weights(np.array(ratings, np.float64)).any()


def test_weights_of_plays_are_counts():
    plays = np.array([2.0, 1.0, 40.0, 0.0])
    assert InteractionRule.of(plays, 1.0, 1.0).weights(plays).tolist() == [2.0, 1.0, 40.0, 0.0]
    halved = InteractionRule.of(plays, 1.0, 0.5).weights(plays)
    np.testing.assert_allclose(halved, [math.sqrt(2), 1.0, math.sqrt(40), 0.0])
    assert [InteractionRule(exponent=1.0).weight(value) for value in (1e12, 3.0, ABOVE_ZERO, 0.0, -1.0)] == [
        1.0,
        1.0,
        1.0,
        0.0,
        0.0,
    ]


@given(st.lists(st.floats(0.5, 5.0), min_size=1, max_size=30), st.sampled_from([0.1, 20.0, 1e6]))
def test_a_change_of_the_unit_changes_no_weight(values, factor):
    ratings = np.array(values)
    rule = InteractionRule.of(ratings, 0.5, 1.0)
    scaled = InteractionRule.of(factor * ratings, 0.5, 1.0)
    np.testing.assert_allclose(scaled.weights(factor * ratings), rule.weights(ratings), rtol=1e-12)
