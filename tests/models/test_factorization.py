import math
import os
from pathlib import Path

import numpy as np
import pytest
import reference_factorization as reference
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidArtifact, InvalidInput
from bandit_serve.models import Artifact, MatrixFactorization, artifact
from bandit_serve.models._factorization import SAMPLE, Factorization, largest, sgd_epoch
from bandit_serve.models._ids import IdTable
from bandit_serve.training.ratings import read_ratings, synthetic_ratings
from bandit_serve.training.splits import random_folds

RATINGS = synthetic_ratings(seed=1, n_users=80, n_items=150, n_ratings=3_000)


def rmse(model, ratings) -> float:
    return float(np.sqrt(np.mean((model.predict_many(ratings.users, ratings.items) - ratings.values) ** 2)))


def parts(n_users=3, n_items=4, n_factors=5, seed=0) -> dict:
    """Arguments of `Factorization._set`."""
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    return {
        "mean": 3.5,
        "user_factors": normal(n_users, n_factors),
        "item_factors": normal(n_items, n_factors),
        "user_biases": normal(n_users),
        "item_biases": normal(n_items),
        "user_ids": IdTable.of([f"u{number}" for number in range(n_users)]),
        "item_ids": IdTable.of([f"i{number}" for number in range(n_items)]),
        "user_counts": np.ones(n_users, np.int32),
        "item_counts": np.ones(n_items, np.int32),
    }


def scorer(**changes) -> Factorization:
    made = Factorization()
    made._set(**{**parts(), **changes})
    return made


@given(st.integers(1, 100), st.integers(0, 2**32))
def test_a_score_is_the_formula(n_factors, seed):
    given_parts = parts(n_factors=n_factors, seed=seed)
    made = Factorization()
    made._set(**given_parts)
    arrays = [
        given_parts[name] for name in ("mean", "user_biases", "item_biases", "user_factors", "item_factors")
    ]
    users, items = np.divmod(np.arange(4 * 5), 5)
    users, items = users - 1, items - 1
    expected = [reference.score(*arrays, user, item) for user, item in zip(users, items, strict=True)]
    assert len(set(expected)) == 20
    # A float32 sum of n products of standard normals: some units in the last place of a partial sum.
    np.testing.assert_allclose(made.score_many(users, items), expected, rtol=0, atol=1e-6 * (5 + n_factors))
    singles = [made.score(user, item) for user, item in zip(users.tolist(), items.tolist(), strict=True)]
    assert singles == made.score_many(users.astype(np.int32), items.astype(np.int8)).tolist()


def test_known_value():
    made = scorer(
        mean=3.0,
        user_factors=np.array([[1, 2]], np.float32),
        item_factors=np.array([[0.5, -0.25], [4, 8]], np.float32),
        user_biases=np.array([0.25], np.float32),
        item_biases=np.array([-1, 0.5], np.float32),
        user_ids=IdTable.of(["u"]),
        item_ids=IdTable.of(["a", "b"]),
        user_counts=np.ones(1, np.int32),
        item_counts=np.ones(2, np.int32),
    )
    assert made.predict("u", "a") == 3.0 + 0.25 - 1 + 0.5 - 0.5
    assert made.predict("u", "b") == 3.0 + 0.25 + 0.5 + 4 + 16
    assert [made.predict("new", "b"), made.predict("u", "new"), made.predict("new", "new")] == [
        3.5,
        3.25,
        3.0,
    ]
    assert made._top().search(*made._asked(["new"])[:2], 10)[0][0].tolist() == [1, 0]
    assert (made.user_row("u"), made.item_row("b"), made.item_row("c")) == (0, 1, -1)


@pytest.mark.parametrize(
    ("users", "items"),
    [
        ([3], [0]),
        ([0], [4]),
        ([-2], [0]),
        ([0], [-2]),
        ([2**40], [0]),
        (np.array([2**64 - 1], np.uint64), [0]),
    ],
)
def test_rows_that_do_not_exist_are_refused(users, items):
    with pytest.raises(InvalidInput, match="no such row"):
        scorer().score_many(users, items)
    with pytest.raises((InvalidInput, OverflowError)):
        scorer().score(int(users[0]), int(items[0]))


@pytest.mark.parametrize("rows", [[0.5], ["0"], [[0]], 0, None, [True], [None]])
def test_rows_of_other_kinds_are_refused(rows):
    with pytest.raises(InvalidInput, match="vector of integers"):
        scorer().score_many(rows, [0])


def test_rows_must_be_as_many_and_may_be_none():
    with pytest.raises(InvalidInput, match="as many"):
        scorer().score_many([0, 1], [0])
    assert scorer().score_many([], []).shape == (0,)


@pytest.mark.parametrize(
    "changes",
    [
        {"user_factors": np.zeros((3, 4), np.float32)},
        {"user_factors": np.zeros((2, 5), np.float32)},
        {"item_factors": np.zeros((5, 5), np.float32)},
        {"item_factors": np.zeros((4, 5), np.float64)},
        {"item_factors": np.zeros((4, 5), ">f4")},
        {"item_factors": np.zeros((5, 4), np.float32).T},
        {"item_factors": np.zeros(20, np.float32)},
        {"item_factors": [[0.0] * 5] * 4},
        {"user_biases": np.zeros(4, np.float32)},
        {"item_biases": np.zeros(3, np.float32)},
        {"user_ids": IdTable.of(["a"])},
        {"user_ids": ["u0", "u1", "u2"]},
        {"mean": math.nan},
        {"mean": math.inf},
        {"user_biases": np.array([0, np.nan, 0], np.float32)},
        {"item_factors": np.full((4, 5), np.inf, np.float32)},
        {"item_factors": np.full((4, 5), 1e38, np.float32), "user_factors": np.full((3, 5), 10, np.float32)},
        {"user_counts": np.ones(4, np.int32)},
    ],
)
def test_parameters_that_cannot_be_scored_are_refused(changes):
    with pytest.raises(InvalidInput):
        scorer(**changes)


@given(st.lists(st.floats(width=32), max_size=70))
def test_largest_sees_every_entry(values):
    array = np.array(values, np.float32)
    expected = float(np.abs(array).max(initial=0)) if np.isfinite(array).all() else math.inf
    assert largest(array) == expected


def training_parts(n_factors=7, n=400, seed=0):
    random = np.random.default_rng(seed)
    samples = np.empty(n, SAMPLE)
    samples["user"], samples["item"] = random.integers(0, 9, n), random.integers(0, 6, n)
    samples["rating"] = random.integers(1, 6, n)
    p, q = (random.normal(0, 0.3, (rows, n_factors)).astype(np.float32) for rows in (9, 6))
    return samples, p, q, np.zeros(9, np.float32), np.zeros(6, np.float32)


@pytest.mark.parametrize("n_factors", [1, 7, 16, 33])
def test_an_epoch_is_the_reference_in_the_order_it_took(n_factors):
    samples, *arrays = training_parts(n_factors)
    expected = [array.astype(np.float64) for array in arrays]
    before = samples.copy()
    mean_square = sgd_epoch(samples, np.random.default_rng(1), *arrays, 3.0, 0.02, 0.05, 0.1)
    assert (samples != before).sum() > 300
    assert np.array_equal(np.sort(samples), np.sort(before))
    expected_square = reference.sgd_pass(samples.tolist(), *expected, 3.0, 0.02, 0.05, 0.1)
    assert mean_square == pytest.approx(expected_square, rel=1e-5)
    for array, wanted in zip(arrays, expected, strict=True):
        assert np.abs(wanted).max() > 0.01
        np.testing.assert_allclose(array, wanted, rtol=0, atol=2e-5)


def test_every_order_of_the_samples_is_as_likely():
    _, *arrays = training_parts()
    samples = np.array([(user, 0, 0) for user in range(4)], SAMPLE)
    generator = np.random.default_rng(5)
    counts: dict[tuple, int] = {}
    for _ in range(12_000):
        sgd_epoch(samples, generator, *arrays, 0.0, 0.0, 0.0, 0.0)
        order = tuple(samples["user"].tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    chi_square = sum((count - 500) ** 2 / 500 for count in counts.values())
    assert chi_square < 49.7  # the .999 quantile with 23 degrees of freedom


@pytest.mark.parametrize(("field", "row"), [("user", 9), ("user", -1), ("item", 6), ("item", -(2**31))])
def test_a_sample_outside_the_factors_is_refused_and_nothing_changes(field, row):
    samples, *arrays = training_parts()
    samples[field][17] = row
    before = [array.copy() for array in arrays]
    with pytest.raises(InvalidInput, match="does not exist"):
        sgd_epoch(samples, np.random.default_rng(1), *arrays, 3.0, 0.02, 0.05, 0.1)
    assert all(np.array_equal(one, other) for one, other in zip(before, arrays, strict=True))


def test_an_epoch_needs_matching_shapes_and_a_generator():
    samples, p, q, bu, bi = training_parts()
    generator = np.random.default_rng(1)
    for wrong in ((p[:, :3].copy(), q, bu, bi), (p, q, bu[:5], bi), (p, q, bu, bi[:2])):
        with pytest.raises(InvalidInput, match="disagree"):
            sgd_epoch(samples, generator, *wrong, 3.0, 0.02, 0.05, 0.1)
    for nobody in (None, 7, object()):
        with pytest.raises(InvalidInput, match="Generator"):
            sgd_epoch(samples, nobody, p, q, bu, bi, 3.0, 0.02, 0.05, 0.1)
    with pytest.raises(ValueError, match="mismatch"):
        sgd_epoch(samples, generator, p.astype(np.float64), q, bu, bi, 3.0, 0.02, 0.05, 0.1)
    p.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        sgd_epoch(samples, generator, p, q, bu, bi, 3.0, 0.02, 0.05, 0.1)
    assert sgd_epoch(samples[:0], generator, q, q, bi, bi, 3.0, 0.02, 0.05, 0.1) == 0.0


def fitted(**parameters) -> MatrixFactorization:
    return MatrixFactorization(8, **parameters).fit(RATINGS.users, RATINGS.items, RATINGS.values)


def test_one_seed_is_one_model_and_another_is_another():
    one, same, other = fitted(seed=3), fitted(seed=3), fitted(seed=4)
    for name in ("user_factors", "item_factors", "user_biases", "item_biases"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    assert one.user_factors.shape == (80, 8)


def test_each_epoch_is_reported():
    calls = []
    model = MatrixFactorization(4, n_epochs=5)
    model.fit(RATINGS.users, RATINGS.items, RATINGS.values, on_epoch=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(done, 5) for done in range(1, 6)]
    errors = [call[2] for call in calls]
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == 5


def test_the_mean_is_the_ratings_mean():
    assert fitted().mean == pytest.approx(RATINGS.values.mean(dtype=np.float64), abs=1e-12)


def test_training_that_diverges_says_so():
    with pytest.raises(InvalidInput, match="diverged"):
        fitted(learning_rate=500, final_learning_rate=500)


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_factors": 0},
        {"n_factors": 4097},
        {"n_factors": 8.0},
        {"n_factors": True},
        {"seed": -1},
        {"seed": None},
        {"n_epochs": 0},
        {"learning_rate": 0},
        {"learning_rate": math.nan},
        {"final_learning_rate": -1},
        {"regularization": math.inf},
        {"regularization": "much"},
        {"bias_regularization": -0.1},
        {"init_std": 10**400},
        {"init_std": True},
    ],
)
def test_parameters_out_of_range_are_refused(parameters):
    with pytest.raises(InvalidInput, match=next(iter(parameters))):
        MatrixFactorization(**parameters)


def test_numpy_numbers_are_parameters():
    model = MatrixFactorization(np.int64(8), seed=np.uint8(3), learning_rate=np.float32(0.5))
    assert {type(value) for value in model.parameters.values()} == {int, float}


def test_default_parameters_are_good_enough():
    """5-fold RMSE on MovieLens' small set where it is at hand, otherwise on a made-up one."""
    path = Path(os.environ.get("BANDIT_SERVE_TEST_DATA", ".")) / "ml-latest-small" / "ratings.csv"
    real = path.exists()
    ratings = read_ratings(path) if real else synthetic_ratings(seed=2)
    errors, of_biases = [], []
    for train, test in random_folds(len(ratings), 5, seed=0):
        seen, held = ratings.take(train), ratings.take(test)
        columns = seen.users, seen.items, seen.values
        errors.append(rmse(MatrixFactorization().fit(*columns), held))
        of_biases.append(rmse(MatrixFactorization(1, init_std=0.0).fit(*columns), held))
    assert len(set(errors)) == 5
    assert np.mean(errors) <= (0.865 if real else np.mean(of_biases) - 0.1)
    assert np.mean(errors) < np.mean(of_biases) - 0.01


def test_a_loaded_model_reads_the_mapped_file_itself(tmp_path):
    fitted().save(tmp_path / "m")
    mapped = Artifact.map(tmp_path / "m")
    model = MatrixFactorization.from_artifact(mapped)
    whole = np.frombuffer(mapped.buffer, np.uint8)
    for array in (
        *(model.user_factors, model.item_factors, model.user_biases, model.item_biases),
        *(model.user_ids.text, model.item_ids.text, model.user_ids.offsets, model.item_ids.offsets),
    ):
        assert np.shares_memory(array, whole)
        assert not array.flags.writeable
    assert model.parameters == fitted().parameters


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("user_factors", lambda array: array.astype(np.float64), "must be F32"),
        ("user_factors", lambda array: array[:-1].copy(), "must be F32 of shape"),
        ("item_factors", lambda array: array[:, :-1].copy(), "must be F32 of shape"),
        ("item_biases", lambda array: array[:, None].copy(), "must be F32 of shape"),
        ("user_biases", lambda array: array * np.float32(np.nan), "not finite"),
        ("item_factors", lambda array: np.full_like(array, 3e38), "not finite"),
        ("mean", lambda array: array * np.inf, "not finite"),
        ("mean", lambda array: np.zeros(2), "must be F64"),
        ("user_id_text", lambda array: array[::-1].copy(), "user ids are wrong"),
        ("item_id_offsets", lambda array: array[1:].copy(), "item ids are wrong"),
        ("item_id_offsets", lambda array: array * 2**40, "item ids are wrong"),
        ("item_id_offsets", lambda array: array[:0].copy(), "item ids are wrong"),
        ("user_id_offsets", lambda array: array.astype(np.int32), "must be I64"),
        ("user_id_text", None, "no tensor user_id_text"),
    ],
)
def test_a_file_with_wrong_tensors_is_refused_with_the_reason(tmp_path, name, change, match):
    fitted().save(tmp_path / "m")
    good = Artifact.map(tmp_path / "m")
    tensors = safetensors.numpy.load_file(tmp_path / "m")
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    artifact.write(tmp_path / "wrong", good.family, good.parameters, tensors)
    with pytest.raises(InvalidArtifact, match=match):
        MatrixFactorization.load(tmp_path / "wrong")


def test_ids_of_any_alphabet_survive_the_file(tmp_path):
    users = ["ä", "日本", "a b", '"quoted"', "🎬", "x" * 256]
    model = MatrixFactorization(2).fit(users, range(6), [1, 2, 3, 4, 5, 1])
    model.save(tmp_path / "m")
    again = MatrixFactorization.load(tmp_path / "m")
    for user in users:
        assert again.knows(user, 3)
        assert again.predict(user, "3") == model.predict(user, 3)


def test_factors_of_elsewhere_are_served_learned_on_and_saved(tmp_path):
    random = np.random.default_rng(2)
    users, items = ["zoe", 7, "ann"], [f"i{number}" for number in range(30)][::-1]
    p, q = random.normal(size=(3, 5)), random.normal(size=(30, 5))
    biases = random.normal(size=30)
    model = MatrixFactorization.of_factors(users, items, p, q, mean=1.5, item_biases=biases)
    for row, user in enumerate(users):
        expected = 1.5 + biases + q @ p[row]
        np.testing.assert_allclose(model.predict_items(user, items), expected, rtol=1e-5, atol=1e-5)
        best = np.argsort(-expected)[:4]
        assert [item for item, _ in model.top_k(user, 4)] == [items[at] for at in best]
    model.save(tmp_path / "m")
    loaded = MatrixFactorization.load(tmp_path / "m")
    assert loaded.predict("ann", "i3") == model.predict("ann", "i3")
    before = loaded.predict("ann", "i3")
    assert loaded.partial_fit("ann", "i3", before + 3.0).predict("ann", "i3") > before
    assert model.confidence("ann", "i3") == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"user_ids": ["a", "a"]}, "twice"),
        ({"user_ids": ["1", 1]}, "twice"),
        ({"item_ids": ["x"]}, "as many"),
        ({"item_factors": np.ones((3, 4))}, "equally long"),
        ({"user_factors": np.ones(2)}, "matrix"),
        ({"user_factors": [["a"], ["b"]]}, "numbers"),
        ({"user_factors": np.full((2, 2), np.nan)}, "not finite"),
        ({"item_biases": np.ones(2)}, "as many"),
        ({"item_counts": [1, -1, 2]}, "Counts"),
        ({"mean": float("inf")}, "not finite"),
        ({"user_factors": np.ones((2, 0)), "item_factors": np.ones((3, 0))}, "n_factors"),
    ],
)
def test_factors_that_do_not_fit_are_refused(change, match):
    given = {
        "user_ids": ["a", "b"],
        "item_ids": ["x", "y", "z"],
        "user_factors": np.ones((2, 2)),
        "item_factors": np.ones((3, 2)),
    }
    MatrixFactorization.of_factors(**given)
    with pytest.raises(InvalidInput, match=match):
        MatrixFactorization.of_factors(**given | change)


def test_rows_begin_where_cache_lines_do() -> None:
    fitted = MatrixFactorization(16, n_epochs=1).fit(["a", "b", "c"], ["x", "y", "z"], [1, 2, 3])
    given = MatrixFactorization.of_factors(["b", "a"], ["x"], np.ones((2, 16)), np.ones((1, 16)))
    for model in (fitted, given):
        assert model.user_factors.ctypes.data % 64 == model.item_factors.ctypes.data % 64 == 0
