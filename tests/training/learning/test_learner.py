"""Learning kernel against the formula."""

import numpy as np
import pytest
import reference_machine as reference
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.models._learner import MAX_FEATURES, Learner

REGULARIZATION, FEATURE_REGULARIZATION, WEIGHT_REGULARIZATION = 0.08, 0.02, 0.05
RATE, HALVING = 0.1, 50.0


def learner(factors=5, seed=3, std=0.5):
    return Learner(
        factors,
        seed,
        std,
        rate=RATE,
        halving=HALVING,
        regularization=REGULARIZATION,
        feature_regularization=FEATURE_REGULARIZATION,
        weight_regularization=WEIGHT_REGULARIZATION,
    )


def rows(*numbers):
    return np.array(numbers, np.int32)


def values(*numbers):
    return np.array(numbers, np.float32)


def described(factors=5, seed=3):
    """A learner in which the user and the item have features, and weights are not 0."""
    made, random = learner(factors, seed), np.random.default_rng(seed)
    for number in range(6):
        made.features.add(f"f{number}")
    for name in ("a", "b"):
        made.users.add(name)
        made.items.add(name)
    made.users.describe(1, rows(0, 1), values(1.0, 0.5))
    made.items.describe(1, rows(1, 2, 3), values(0.6, -1.0, 2.0))
    for block in (made.users, made.items, made.features):
        block.weights[: block.size] = random.normal(0, 0.3, block.size)
        block.counts[: block.size] = random.integers(0, 100, block.size)
    made.mean, made.n_ratings = 3.25, 1_000
    return made


# The sample (b, b) with f3, one that is not known, and f5; its columns: user, item, f0, f1, f1, f2, f3, f3, f5.
REQUEST = rows(3, -1, 5), values(0.5, 9.0, 1.5)
FEATURES = np.array([0, 1, 1, 2, 3, 3, 5])
X = np.array([1, 1, 1.0, 0.5, 0.6, -1.0, 2.0, 0.5, 1.5], np.float32).astype(np.float64)


def columns(made):
    """Weights, vectors and counts of the columns of that sample."""
    return [
        np.concatenate(
            [
                getattr(made.users, name)[1:2],
                getattr(made.items, name)[1:2],
                getattr(made.features, name)[FEATURES],
            ]
        ).astype(np.float64)
        for name in ("weights", "vectors", "counts")
    ]


@given(st.integers(1, 70), st.integers(0, 2**32))
def test_a_prediction_is_the_formula(factors, seed):
    made = described(factors, seed)
    weights, vectors, _ = columns(made)
    expected = reference.score(3.25, weights, vectors, X)
    assert made.predict("b", "b", *REQUEST) == pytest.approx(expected, rel=1e-4, abs=1e-3)
    weights, vectors = weights[:7], vectors[:7]
    assert made.predict("b", "b") == pytest.approx(
        reference.score(3.25, weights, vectors, X[:7]), rel=1e-4, abs=1e-3
    )
    only_user = [0, 2, 3]
    expected = reference.score(3.25, weights[only_user], vectors[only_user], X[only_user])
    assert made.predict("b", "new") == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert made.predict("new", "new") == 3.25


def test_sides_and_queries_give_what_predict_gives():
    made = described(16)
    su, tu = made.sides("users")
    si, ti = made.sides("items")
    assert made.mean + su[1] + si[1] + tu[1] @ ti[1] == pytest.approx(made.predict("b", "b"), rel=1e-6)
    s, t = made.joined(su[1], tu[1], *REQUEST)
    assert made.mean + s + si[1] + t @ ti[1] == pytest.approx(made.predict("b", "b", *REQUEST), rel=1e-6)


@given(st.integers(1, 40), st.integers(0, 2**32), st.floats(-5, 5))
def test_a_step_is_the_formula(factors, seed, rating):
    # Each feature once only: twice the same is one row that two gradients move.
    made = learner(factors, seed)
    for number in range(4):
        made.features.add(f"f{number}")
    made.users.add("u"), made.items.add("i")
    made.items.describe(0, rows(0, 1), values(0.7, 0.7))
    made.users.counts[0], made.items.counts[0] = 7, 200
    made.mean, made.n_ratings = 2.0, 10**12
    request = rows(2, 3), values(1.0, -0.5)
    x = np.array([1, 1, np.float32(0.7), np.float32(0.7), 1.0, -0.5])

    def parameters(name):
        blocks = made.users, made.items, made.features
        return np.concatenate([getattr(block, name)[: block.size] for block in blocks]).astype(np.float64)

    weights, vectors, counts = parameters("weights"), parameters("vectors"), parameters("counts")
    rates = RATE / np.sqrt(1 + counts / HALVING)
    shrink = np.array([REGULARIZATION] * 2 + [FEATURE_REGULARIZATION] * 4)
    expected = reference.step(2.0, weights, vectors, x, rating, rates, shrink, WEIGHT_REGULARIZATION)
    error = made.learn("u", "i", rating, *request)
    assert error == pytest.approx(rating - reference.score(2.0, weights, vectors, x), rel=1e-3, abs=1e-3)
    np.testing.assert_allclose(parameters("weights"), expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(parameters("vectors"), expected[1], rtol=1e-3, atol=1e-4)
    assert parameters("counts").tolist() == (counts + 1).tolist()


def test_an_epoch_goes_once_over_all_samples_without_counting():
    made, random = described(8), np.random.default_rng(0)
    n = 200
    users, items = random.integers(0, 2, (2, n)).astype(np.int32)
    starts = np.arange(0, 2 * n + 1, 2)
    features, x = random.integers(-1, 6, 2 * n).astype(np.int32), random.random(2 * n).astype(np.float32)
    ratings = random.normal(3, 1, n).astype(np.float32)
    counts = made.users.counts.copy()
    before = made.errors(users, items, ratings, starts, features, x)
    for _ in range(20):
        made.epoch(users, items, ratings, starts, features, x, random, 0.02)
    assert made.errors(users, items, ratings, starts, features, x) < before
    assert (made.users.counts == counts).all()


def test_new_vectors_are_normal_and_do_not_depend_on_when_they_came():
    names = [f"user {number}" for number in range(4_000)]
    first, second = learner(8, std=0.5), learner(8, std=0.5)
    for name in names:
        first.users.add(name)
    for name in reversed(names):
        second.users.add(name)
    assert (first.users.trimmed("vectors") == second.users.trimmed("vectors")[::-1]).all()
    drawn = first.users.trimmed("vectors").astype(np.float64).ravel()
    assert abs(drawn.mean()) < 4 * 0.5 / np.sqrt(drawn.size)
    assert drawn.std() == pytest.approx(0.5, rel=0.02)
    assert abs(np.mean(drawn**4) / 0.5**4 - 3) < 0.3
    assert len(np.unique(drawn)) > 0.99 * drawn.size
    other = learner(8, seed=4, std=0.5)
    other.users.add(names[0])
    assert not np.isclose(other.users.vectors[0], first.users.vectors[0]).any()


def test_rows_keep_what_they_have_while_room_grows():
    made = learner(3)
    for number in range(100_000):
        assert made.items.add(str(number % 50_000)) == number % 50_000
        if number == 10:
            kept = made.items.vectors[:10].copy()
    assert made.items.size == 50_000
    assert (made.items.vectors[:10] == kept).all()
    assert made.items.vectors.shape[0] < 2 * 50_000 + 64
    made.features.add("f")
    for number in range(300):
        made.items.describe(number, rows(*[0] * (number % 5)), values(*[0.5] * (number % 5)))
    starts, features, x = made.items.attached(np.arange(300))
    assert np.diff(starts).tolist() == [number % 5 for number in range(300)]
    assert features.size == x.size == starts[-1]


@pytest.mark.parametrize(
    ("users", "items", "starts", "features"),
    [
        ([2], [0], [0, 0], []),
        ([-1], [0], [0, 0], []),
        ([0], [2], [0, 0], []),
        ([0, 1], [0], [0, 0, 0], []),
        ([0], [0], [0], []),
        ([0], [0], [0, 1], []),
        ([0], [0], [0, 1], [6]),
        ([0], [0], [0, 1], [-2]),
        ([0, 0], [0, 0], [0, 1, 0], []),
        ([0], [0], [0, MAX_FEATURES + 1], [0] * (MAX_FEATURES + 1)),
    ],
)
def test_samples_of_rows_that_do_not_exist_are_refused(users, items, starts, features):
    made = described()
    with pytest.raises(InvalidInput):
        made.epoch(
            np.array(users, np.int32),
            np.array(items, np.int32),
            np.zeros(len(users), np.float32),
            np.array(starts, np.int64),
            np.array(features, np.int32),
            np.zeros(len(features), np.float32),
            np.random.default_rng(0),
            0.1,
        )


def test_read_only_columns_work_and_others_are_refused():
    made = described()
    ids, ratings, starts = rows(0, 1), values(1, 2), np.zeros(3, np.int64)
    for array in (ids, ratings, starts):
        array.flags.writeable = False
    none = rows(), values()
    made.epoch(ids, ids, ratings, starts, *none, np.random.default_rng(0), 0.1)
    with pytest.raises(ValueError, match="mismatch"):
        made.epoch(ids, ids, ratings.astype(np.float64), starts, *none, np.random.default_rng(0), 0.1)
