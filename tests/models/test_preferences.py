"""Families whose scores are preferences, against the formulas that they are named after."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_interactions import ease, loss, ridge_row

from bandit_serve.errors import InvalidArtifact, InvalidInput, TooLarge
from bandit_serve.models import (
    Artifact,
    LinearItems,
    Popularity,
    WeightedALS,
    artifact,
    load_model,
    preferences,
)
from bandit_serve.models.preference_learner import own_vector
from bandit_serve.training.dataset import DataSet
from bandit_serve.training.metrics import ranking_metrics
from bandit_serve.training.ratings import Ratings, synthetic_ratings
from bandit_serve.training.splits import holdout

FAMILIES = (LinearItems, WeightedALS)
MADE = synthetic_ratings(seed=3, n_users=60, n_items=45, n_ratings=900)
PLAYS = np.ceil(np.exp(MADE.values))


@pytest.fixture(params=FAMILIES, ids=lambda family: family.family)
def family(request):
    return request.param


def matrix(users, items, values, least, exponent=0.0):
    """Dense interactions, and the ids of its rows and columns."""
    user_ids, item_ids = np.unique(users), np.unique(items)
    x = np.zeros((user_ids.size, item_ids.size))
    chosen = values >= least
    np.add.at(
        x,
        (np.searchsorted(user_ids, users[chosen]), np.searchsorted(item_ids, items[chosen])),
        (values[chosen] / least) ** exponent,
    )
    return x, user_ids.tolist(), item_ids.tolist()


def content(model, path):
    model.save(path / "content")
    return (path / "content").read_bytes()


@pytest.mark.parametrize("transposed", [False, True], ids=["fewer users", "fewer items"])
@pytest.mark.parametrize(("share", "exponent"), [(0.5, 0.0), (1.0, 1.0)])
def test_of_full_rank_the_linear_model_is_ease(transposed, share, exponent):
    users, items = (MADE.items, MADE.users) if transposed else (MADE.users, MADE.items)
    model = LinearItems(64, n_epochs=2, regularization=0.02, user_damping=0.0, interaction_share=share)
    model.parameters["weight_exponent"] = exponent
    model.fit(users, items, PLAYS)
    least = model._state.rule.least
    x, user_ids, item_ids = matrix(users, items, PLAYS, least, exponent)
    expected = x @ ease(x, 0.02 * (x**2).sum())
    scores = np.array([model.predict_items(user, item_ids) for user in user_ids])
    unseen = (x == 0) & x.any(axis=1)[:, None]
    assert unseen.sum() > 1_000
    assert np.abs(scores - expected)[unseen].max() < 2e-3 * np.abs(expected).max()


def test_damping_is_a_weighted_regression():
    model = LinearItems(64, n_epochs=2, regularization=0.02, user_damping=0.4, weight_exponent=0.0).fit(
        MADE.users, MADE.items, MADE.values
    )
    x, user_ids, item_ids = matrix(MADE.users, MADE.items, MADE.values, model._state.rule.least)
    w = x * np.maximum(x.sum(axis=1, keepdims=True), 1.0) ** -0.4
    expected = x @ ease(w, 0.02 * (w**2).sum())
    scores = np.array([model.predict_items(user, item_ids) for user in user_ids])
    unseen = (x == 0) & x.any(axis=1)[:, None]
    assert np.abs(scores - expected)[unseen].max() < 2e-3 * np.abs(expected).max()


def test_fewer_factors_keep_the_leading_part():
    x, user_ids, item_ids = matrix(MADE.users, MADE.items, MADE.values, 4.0)
    given = np.nonzero(x)
    users, items = np.array(user_ids)[given[0]], np.array(item_ids)[given[1]]
    model = LinearItems(5, n_epochs=900, regularization=0.01, user_damping=0.0).fit(
        users, items, np.ones(users.size)
    )
    kept = x[np.ix_(x.any(axis=1), x.any(axis=0))]
    _, sizes, axes = np.linalg.svd(kept)
    own = axes[:5].T * np.sqrt(sizes[:5] ** 2 / (sizes[:5] ** 2 + 0.01 * kept.sum()))
    expected = kept @ own @ (own / (1 - (own**2).sum(axis=1))[:, None]).T
    names = sorted(set(items.tolist()))
    scores = np.array([model.predict_items(user, names) for user in sorted(set(users.tolist()))])
    np.testing.assert_allclose(scores, expected, atol=2e-4)


def damping(x, power):
    sizes = np.maximum((x > 0).sum(axis=1), 1.0) ** -power
    return sizes / math.sqrt((sizes**2)[np.nonzero(x)[0]].mean())


@pytest.mark.parametrize("power", [0.0, 0.3])
@pytest.mark.parametrize(("share", "exponent"), [(0.5, 0.0), (1.0, 0.5)])
def test_weighted_factors_are_the_regressions_of_the_paper_on_each_other(share, exponent, power):
    model = WeightedALS(
        6,
        n_epochs=300,
        regularization=0.1,
        confidence=2.0,
        user_damping=power,
        interaction_share=share,
        weight_exponent=exponent,
    )
    model.fit(MADE.users, MADE.items, PLAYS)
    x, _, item_ids = matrix(MADE.users, MADE.items, PLAYS, model._state.rule.least, exponent)
    active, penalty = x.any(axis=1), 0.1 * math.sqrt((x > 0).sum())
    users, items = (
        (model.user_factors + model._state.mean_user).astype(float),
        model.item_factors.astype(float),
    )
    users[~active] = 0
    assert np.abs(users).max() > 0.1
    expected = np.array([ridge_row(row, items, penalty, 2.0) for row in x])
    np.testing.assert_allclose(users, expected, atol=2e-3)
    d = damping(x, power)
    expected = np.array([ridge_row(row, users * d[:, None], penalty, 2.0, d) for row in x.T])
    np.testing.assert_allclose(items, expected, atol=2e-4)
    everyone = users[active].mean(axis=0) @ items.T
    np.testing.assert_allclose(model.predict_items("nobody", item_ids), everyone, atol=1e-4)


def test_each_turn_lowers_the_loss_and_tells_of_it():
    x, user_ids, item_ids = matrix(MADE.users, MADE.items, MADE.values, 4.0)
    losses, calls = [], []
    for n_epochs in (1, 2, 4, 8):
        model = WeightedALS(
            4, n_epochs=n_epochs, regularization=0.1, confidence=1.0, user_damping=0.2, weight_exponent=0.0
        )
        model.fit(MADE.users, MADE.items, MADE.values, on_epoch=lambda *call: calls.append(call))
        assert model._state.rule.least == 4.0
        users = model.user_factors + model._state.mean_user
        users[~x.any(axis=1)] = 0
        penalty = 0.1 * math.sqrt((x > 0).sum())
        losses.append(loss(x, users, model.item_factors, penalty, 1.0, damping(x, 0.2)))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert [call[:2] for call in calls[-8:]] == [(n, 8) for n in range(1, 9)]
    scores = np.array([model.predict_items(user, item_ids) for user in user_ids])
    assert calls[-1][2] == pytest.approx(math.sqrt(((1 - scores[x > 0]) ** 2).mean()), rel=1e-4)


def test_the_linear_model_tells_of_each_turn():
    calls = []
    LinearItems(4, n_epochs=3).fit(
        MADE.users, MADE.items, MADE.values, on_epoch=lambda *call: calls.append(call)
    )
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
    assert calls[0][2] > calls[2][2] > 0


def test_neither_threads_nor_runs_change_a_bit(family, tmp_path):
    made = synthetic_ratings(seed=1, n_users=900, n_items=700, n_ratings=60_000)
    contents = {
        content(family(24, n_epochs=2).fit(made.users, made.items, made.values, n_threads=n), tmp_path)
        for n in (1, 2, 3, None)
    }
    assert len(contents) == 1
    other = family(24, n_epochs=2, seed=1).fit(made.users, made.items, made.values)
    assert content(other, tmp_path) not in contents


def test_it_ranks_better_than_popularity(family):
    tastes = np.random.default_rng(2)
    users, items = np.divmod(np.flatnonzero(tastes.random(200 * 90) < 0.2), 90)
    kept = (users % 3 == items % 3) | (tastes.random(users.size) < 0.1)
    ratings = Ratings(
        users[kept].astype(str),
        items[kept].astype(str),
        np.ones(kept.sum(), np.float32),
        np.arange(kept.sum()),
    )
    first, second = holdout(ratings.users, 0.2, 1)
    train, test = DataSet(ratings.take(first)), DataSet(ratings.take(second))
    model = family(8).fit(train.ratings.users, train.ratings.items, train.ratings.values)
    popular = Popularity().fit(train.ratings.users, train.ratings.items, train.ratings.values)
    own, theirs = (ranking_metrics(each, train, test, 10, 1.0)["ndcg@10"] for each in (model, popular))
    assert own > 1.8 * theirs


def test_who_is_never_seen_is_served_what_is_expected_of_anyone(family):
    model = family(8).fit(MADE.users, MADE.items, MADE.values)
    names = sorted(set(MADE.items.tolist()))
    mean = np.mean([model.predict_items(user, names) for user in sorted(set(MADE.users.tolist()))], axis=0)
    np.testing.assert_allclose(model.predict_items("nobody", names), mean, rtol=0.05, atol=1e-3)
    liked = np.array([((MADE.items == name) & (MADE.values >= 4)).sum() for name in names])
    assert np.corrcoef(model.predict_items("nobody", names), liked)[0, 1] > 0.8


def test_a_user_without_interactions_is_served_as_nobody(family):
    users, items = ["a", "b", "b", "c", "c"], ["x", "x", "y", "y", "z"]
    model = family(4).fit(users, items, [1, 5, 5, 5, 5])
    assert model.knows("a", "x")
    assert model.top_k("a", 3) == model.top_k("nobody", 3)
    assert model.top_k("b", 3) != model.top_k("nobody", 3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, 6),
            st.sampled_from([0.0, -1.0, 1.0, 2.0, 1e-9, 1e12, -1e12]),
        ),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([1, 3, 9]),
    st.sampled_from([0.0, 1.0]),
)
def test_whatever_the_ratings_scores_are_finite_and_learning_goes_on(family, rows, f, exponent):
    users, items, values = ([row[place] for row in rows] for place in range(3))
    model = family(f, interaction_share=1.0, weight_exponent=exponent).fit(users, items, values)
    model.partial_fit(users[::-1], items, [float(value) for value in values])
    scores = model.predict_items("0", [str(item) for item in range(7)])
    assert np.isfinite(scores).all()
    assert len(model.top_k("0", 7)) == len(set(items))


def test_a_rating_that_is_no_interaction_counts_and_moves_nothing(family, tmp_path):
    model = family(6).fit(MADE.users, MADE.items, MADE.values)
    names = sorted(set(MADE.items.tolist()))
    before, confidence = model.predict_items("u5", names).tolist(), model.confidence("u5", names[0])
    model.partial_fit("u5", names[0], 1.0)
    assert model.predict_items("u5", names).tolist() == before
    assert model.confidence("u5", names[0]) > confidence


def test_a_target_is_whether_a_rating_is_an_interaction(family, tmp_path):
    model = family(6).fit(MADE.users, MADE.items, MADE.values)
    assert [model.target(value) for value in (-1.0, 0.0, 3.5, 4.0, 5.0)] == [0.0, 0.0, 0.0, 1.0, 1.0]
    model.save(tmp_path / "m")
    assert [family.load(tmp_path / "m").target(value) for value in (3.5, 4.0)] == [0.0, 1.0]
    assert [family(6).target(value) for value in (0.0, 1e-9)] == [0.0, 1.0]


def test_interactions_bring_a_new_user_to_where_those_who_have_them_are(family):
    users, items = np.divmod(np.arange(40 * 12), 12)
    alike = users % 2 == items % 2
    model = family(4).fit(users[alike], items[alike], np.ones(alike.sum()))
    for item in (1, 3, 5):
        model.partial_fit("new", item, 1.0)
    best = [int(item) for item, _ in model.top_k("new", 3, exclude=[1, 3, 5])]
    assert all(item % 2 == 1 for item in best)


def test_interactions_bring_a_new_item_to_those_who_would_have_it(family):
    users, items = np.divmod(np.arange(40 * 12), 12)
    alike = users % 2 == items % 2
    model = family(4).fit(users[alike], items[alike], np.ones(alike.sum()))
    for user in range(0, 12, 2):
        model.partial_fit(user, "new", 1.0)
    assert model.predict(20, "new") > 3 * abs(model.predict(21, "new"))
    assert model.predict(20, "new") > model.predict("nobody", "new") > 0


def test_the_linear_model_sums_the_items_of_a_user(tmp_path):
    model = LinearItems(6).fit(MADE.users, MADE.items, MADE.values)
    names = sorted(set(MADE.items.tolist()))
    vectors = np.array([own_vector(row) for row in model.item_factors])
    items_before = np.array(model.item_factors)
    liked = np.flatnonzero(vectors.any(axis=1))[:3]
    for row in liked:
        model.partial_fit("new", names[row], 4.0)
    expected = vectors[liked].sum(axis=0) @ items_before.T
    np.testing.assert_allclose(model.predict_items("new", names), expected, atol=1e-4)
    assert np.array_equal(model.item_factors, items_before)


def test_items_of_the_fit_stay_and_new_ones_go_on_moving_also_after_a_restart(tmp_path):
    model = LinearItems(6).fit(MADE.users, MADE.items, MADE.values)
    model.partial_fit("u1", "a new one", 5.0)
    path = tmp_path / "m"
    model.save(path)
    for learner in (model, LinearItems.load(path)):
        before = np.array(learner.item_factors)
        learner.partial_fit(["u2", "u2"], ["a new one", MADE.items[0]], [5.0, 5.0])
        moved = (learner.item_factors != before).any(axis=1)
        assert [learner.item_ids.name(row) for row in np.flatnonzero(moved)] == ["a new one"]
    learner.save(tmp_path / "again")
    assert content(model, tmp_path) == (tmp_path / "again").read_bytes()


def test_a_fit_that_takes_too_much_memory_is_refused_before_the_work(family, monkeypatch):
    monkeypatch.setattr(preferences, "MAX_FIT_BYTES", 10_000)
    with pytest.raises(
        TooLarge, match=r"60 users and 45 items with 48 factors, .* would take .* bytes of memory"
    ):
        family(48).fit(MADE.users, MADE.items, MADE.values)


@pytest.mark.parametrize(
    ("n_users", "n_items", "n_factors"),
    [(9_000, 600, 64), (600, 9_000, 64), (4_000, 4_000, 64), (500, 500, 512)],
)
def test_the_peak_of_a_fit_is_bounded_before_the_work(family, n_users, n_items, n_factors, monkeypatch):
    n = 2 * max(n_users, n_items)
    users, items = np.arange(n) % n_users, (np.arange(n) * 7) % n_items
    tracemalloc.start()
    try:
        family(n_factors, n_epochs=1).fit(users, items, np.ones(n), n_threads=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(preferences, "MAX_FIT_BYTES", peak)
    with pytest.raises(TooLarge):
        family(n_factors, n_epochs=1).fit(users, items, np.ones(n), n_threads=1)
    monkeypatch.setattr(preferences, "MAX_FIT_BYTES", 4 * peak)
    family(n_factors, n_epochs=1)._check_size(n_users, n_items, n)


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_factors": 0},
        {"n_factors": 1025},
        {"n_epochs": 0},
        {"regularization": 0.0},
        {"regularization": math.nan},
        {"interaction_share": 1.1},
        {"weight_exponent": -0.1},
        {"seed": -1},
    ],
)
def test_parameters_out_of_their_range_are_refused(family, parameters):
    with pytest.raises(InvalidInput, match=next(iter(parameters))):
        family(**parameters)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("mean_user", math.nan, "not finite"),
        ("interaction_from", math.inf, "not finite"),
        ("item_precision", math.nan, "geometry"),
        ("item_precision", 1e300, "geometry"),
        ("item_precision", 0.0, "not positive"),
        ("item_precision", -1.0, "not positive"),
        ("item_spread", math.inf, "geometry"),
    ],
)
def test_a_file_with_a_state_that_can_not_be_learned_from_is_refused(family, name, value, match, tmp_path):
    tensors = family(4).fit(MADE.users, MADE.items, MADE.values)._tensors()
    tensors[name] = np.full_like(tensors[name], value)
    artifact.write(tmp_path / "spoiled", family.family, family(4).parameters, tensors)
    with pytest.raises(InvalidArtifact, match=match):
        load_model(Artifact.map(tmp_path / "spoiled"))


def test_a_file_of_other_shapes_is_refused(family, tmp_path):
    tensors = family(4).fit(MADE.users, MADE.items, MADE.values)._tensors()
    for name in sorted(set(tensors) & {"item_precision", "user_spread", "mean_user", "item_is_open"}):
        spoiled = {**tensors, name: np.ascontiguousarray(tensors[name][:-1])}
        artifact.write(tmp_path / "spoiled", family.family, family(4).parameters, spoiled)
        with pytest.raises(InvalidArtifact, match=f"{name} must be"):
            load_model(Artifact.map(tmp_path / "spoiled"))
        del spoiled[name]
        artifact.write(tmp_path / "spoiled", family.family, family(4).parameters, spoiled)
        with pytest.raises(InvalidArtifact, match=f"no tensor {name}"):
            load_model(Artifact.map(tmp_path / "spoiled"))
