"""Truth of a training's figures: repeated pairs, diverging combinations, any unit, and rankings."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scale import scaled

from bandit_serve.errors import InvalidInput
from bandit_serve.training import DataSet, read_plan, train
from bandit_serve.training.ratings import Ratings, synthetic_ratings
from bandit_serve.training.splits import holdout, latest_of_each_user, random_folds, random_split

MADE = synthetic_ratings(seed=8, n_users=150, n_items=200, n_ratings=6_000)
QUICK = {"search": {"jobs": 1, "backend": "sequential", "trials": 1}, "split": {"folds": 2}}
DIVERGES = {"learning_rate": 60.0, "final_learning_rate": 60.0, "n_epochs": 30, "n_factors": 4}


def data(values, ratings=MADE):
    return DataSet(Ratings(ratings.users, ratings.items, np.asarray(values, np.float32), ratings.timestamps))


def run(dataset, **changes):
    return train(dataset, read_plan({**QUICK, **changes}))


def rated(users, items, times=None):
    n = len(users)
    times = np.zeros(n, np.int64) if times is None else np.asarray(times, np.int64)
    return Ratings(np.array(users), np.array(items), np.zeros(n, np.float32), times)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=60))
def test_ratings_of_a_pair_are_on_one_side_of_every_split(rows):
    users, items, times = ([str(row[place]) for row in rows] for place in range(3))
    ratings = rated(users, items, [int(time) for time in times])
    pairs = ratings.pairs
    names = list(zip(users, items, strict=True))
    order = list(dict.fromkeys(names))
    assert pairs.tolist() == [order.index(name) for name in names]
    splits = []
    if len(order) >= 2:
        splits += random_folds(len(rows), 2, 1, pairs)
        splits.append(random_split(len(rows), 0.4, 1, pairs))
    splits.append(holdout(users, 0.4, 1, pairs))
    try:
        splits.append(latest_of_each_user(users, ratings.timestamps, 0.4, pairs))
    except InvalidInput:
        assert max(users.count(user) for user in users) < 60
    for train_rows, test_rows in splits:
        assert sorted([*train_rows, *test_rows]) == list(range(len(rows)))
        assert not set(pairs[train_rows]) & set(pairs[test_rows])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(0, 99))
def test_without_repetitions_pairs_change_no_split(users, seed):
    times = np.random.default_rng(seed).integers(0, 5, len(users))
    ratings, n = rated(users, range(len(users)), times), len(users)
    for split in (
        lambda *pairs: random_folds(n, 2, seed, *pairs)[0][1],
        lambda *pairs: random_split(n, 0.3, seed, *pairs)[1],
        lambda *pairs: holdout(users, 0.3, seed, *pairs)[1],
    ):
        assert split().tolist() == split(ratings.pairs).tolist()


def test_noise_in_triplicate_is_noise():
    """Each rating three times over: what two of them teach is not what the third is measured by."""
    random = np.random.default_rng(3)
    n = 2_000
    users, items = random.integers(0, 100, n).repeat(3), random.integers(0, 400, n).repeat(3)
    noise = random.normal(3, 1.42, n).astype(np.float32).repeat(3)
    order = random.permutation(3 * n)
    ratings = Ratings(
        users[order].astype(str), items[order].astype(str), noise[order], order.astype(np.int64)
    )
    result = run(DataSet(ratings), families={"matrix_factorization": {"n_factors": [16]}})
    assert result.trained[0].record.metrics["rmse"] > 1.35
    assert result.trained[0].record.metrics["time.rmse"] > 1.35
    assert result.trained[0].record.data.repeated == 3 * n


def test_a_combination_that_diverges_is_the_worst_of_its_family():
    space = {**DIVERGES, "learning_rate": [60.0, 0.03], "final_learning_rate": [0.003, 60.0]}
    search = {**QUICK["search"], "kind": "grid"}
    result = run(data(MADE.values), families={"matrix_factorization": space}, search=search)
    best = result.trained[0].record
    assert best.trials == 4
    assert best.parameters["learning_rate"] == 0.03
    assert best.metrics["rmse"] < 1.0


def test_a_family_that_diverges_is_dropped_and_the_others_are_kept():
    result = run(data(MADE.values), families={"matrix_factorization": DIVERGES, "bias": {}})
    assert [each.record.family for each in result.trained] == ["bias"]
    assert "diverged in epoch" in result.dropped["matrix_factorization"]
    with pytest.raises(InvalidInput, match=r"No model came of it\. matrix_factorization: Training diverged"):
        run(data(MADE.values), families={"matrix_factorization": DIVERGES})


@pytest.mark.parametrize(
    ("space", "match"),
    [
        ({"n_factors": [4, 0]}, "n_factors must be"),
        ({"depth": 3}, "families.bias: it has no parameter 'depth'"),
    ],
)
def test_what_can_not_be_made_is_refused_before_anything_is_fitted(space, match):
    family = "bias" if "depth" in space else "matrix_factorization"
    with pytest.raises(InvalidInput, match=match):
        train(
            data(MADE.values),
            read_plan({**QUICK, "families": {family: space}, "search": {**QUICK["search"], "kind": "grid"}}),
            on_progress=pytest.fail,
        )


@functools.cache
def of_unit(factor, family):
    return run(
        data(factor * MADE.values), families={family: {"n_factors": [8], "n_epochs": [scaled(10, 40)]}}
    )


@pytest.mark.parametrize("factor", [20.0, 100.0, 0.2])
@pytest.mark.parametrize("family", ["matrix_factorization", "factorization_machine"])
def test_any_unit_does_as_well_as_stars(factor, family):
    stars, other = of_unit(1.0, family), of_unit(factor, family)
    for name in ("rmse", "mae", "time.rmse"):
        expected = stars.trained[0].record.metrics[name]
        assert other.trained[0].record.metrics[name] / factor == pytest.approx(expected, rel=0.03)
        assert expected < MADE.values.std()
    assert other.trained[0].record.relevant_from == pytest.approx(4.0 * factor)
    assert other.trained[0].status == stars.trained[0].status
    ndcg = stars.trained[0].record.metrics["ndcg@10"]
    assert other.trained[0].record.metrics["ndcg@10"] == pytest.approx(ndcg, abs=0.02)


def test_play_counts_are_trained_on():
    noise = np.random.default_rng(0).normal(0, 0.5, len(MADE))
    plays = np.ceil(np.exp(1.5 * (MADE.values - 1) + noise))
    assert plays.max() > 1_000
    result = run(data(plays))
    assert not result.dropped
    for each in result.trained:
        if "rmse" in each.record.metrics:
            assert each.record.metrics["rmse"] < 1.05 * result.baseline["rmse"] < plays.std()
        assert 1.0 < each.record.relevant_from < plays.max()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 4.0, 100.0]), min_size=1, max_size=30),
    st.sampled_from([1.0, 20.0]),
)
def test_liked_is_what_no_more_than_half_reach(values, factor):
    ratings = data(factor * np.array(values), rated(range(len(values)), range(len(values)))).ratings
    threshold = ratings.liked_from / factor
    reached = sum(value >= threshold for value in values)
    more = [value for value in values if value < threshold]
    assert 2 * reached <= len(values) or threshold == max(values)
    assert not more or 2 * sum(value >= max(more) for value in values) > len(values)


def test_a_recommender_that_ranks_worse_than_the_biases_is_not_staged():
    """Many items that one user loved: the squared error hardly knows them, every ranking begins with them."""
    random = np.random.default_rng(1)
    common = synthetic_ratings(seed=3, n_users=200, n_items=80, n_ratings=5_000)
    users = np.concatenate([common.users, [f"u{n % 200}" for n in range(800)]])
    items = np.concatenate([common.items, [f"rare{n}" for n in range(800)]])
    values = np.concatenate([common.values, random.choice([1.0, 5.0, 5.0, 5.0], 800)]).astype(np.float32)
    times = random.permutation(len(values)).astype(np.int64)
    result = run(
        DataSet(Ratings(users, items, values, times)),
        families={
            "matrix_factorization": {"n_factors": [8], "n_epochs": [60], "bias_regularization": [0.001]}
        },
    )
    (each,) = result.trained
    ndcg, of_biases = each.record.metrics["ndcg@10"], result.baseline["ndcg@10"]
    assert each.record.metrics["rmse"] < result.baseline["rmse"]
    assert ndcg < 0.5 * of_biases
    assert each.status == "failed"
    assert "is <= baseline.ndcg@10" in each.record.reason
    assert each.record.gates["staging"] == (
        "not rmse >= baseline.rmse and not ndcg@10 <= baseline.ndcg@10 and not ndcg@10 <= popular.ndcg@10"
    )


def test_without_a_user_of_many_pairs_there_is_no_measure_in_time():
    ratings = rated([f"u{n % 9}" for n in range(90)], [f"i{n % 27}" for n in range(90)], range(90))
    result = run(data(np.arange(90) % 5 + 1, ratings), families={"bias": {}})
    assert "time.rmse" not in result.trained[0].record.metrics
    with pytest.raises(InvalidInput, match="No user"):
        run(data(np.arange(90) % 5 + 1, ratings), families={"bias": {}}, split={"kind": "time"})
