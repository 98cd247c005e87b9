"""Factorization machine: features, learning, files."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidArtifact, InvalidInput
from bandit_serve.models import Artifact, FactorizationMachine, MatrixFactorization, artifact, load_model

RANDOM = np.random.default_rng(5)
N = 4_000
USERS = RANDOM.integers(0, 100, N)
ITEMS = RANDOM.integers(0, 400, N)
HOURS = RANDOM.integers(0, 24, N)
KINDS = ("drama", "comedy", "war")
TASTES = RANDOM.normal(0, 1, (100, 3))


def kinds(item: int) -> list[str]:
    return [KINDS[item % 3]] + ([KINDS[(item // 3) % 3]] if item % 2 else [])


def liking(user, item, hour) -> float:
    own = {KINDS.index(kind) for kind in kinds(int(item))}
    return 3.0 + float(np.mean([TASTES[user, kind] for kind in own])) + (1.0 if hour >= 18 else 0.0)


RATINGS = np.array([liking(*one) for one in zip(USERS, ITEMS, HOURS, strict=True)]) + RANDOM.normal(0, 0.2, N)
ITEM_FEATURES = {str(item): {"kind": kinds(item), "length": 90.0 + item % 7} for item in range(450)}
USER_FEATURES = {user: {"age": 20 + user % 40, "member": user % 2 == 0} for user in range(100)}
REQUESTS = [{"evening": bool(hour >= 18)} for hour in HOURS]


def fitted(**changes) -> FactorizationMachine:
    given_features = {
        "user_features": USER_FEATURES,
        "item_features": ITEM_FEATURES,
        "features": REQUESTS,
        **changes,
    }
    return FactorizationMachine(8, n_epochs=30).fit(USERS, ITEMS, RATINGS, **given_features)


@pytest.fixture(scope="module")
def model() -> FactorizationMachine:
    return fitted()


def rmse(model, features=None) -> float:
    random = np.random.default_rng(6)
    users, items, hours = (
        random.integers(0, 100, 800),
        random.integers(0, 450, 800),
        random.integers(0, 24, 800),
    )
    expected = np.array([liking(*one) for one in zip(users, items, hours, strict=True)])
    own = None if features is None else [{"evening": bool(hour >= 18)} for hour in hours]
    return float(np.sqrt(np.mean((model.predict_many(users, items, own) - expected) ** 2)))


def test_features_of_items_and_requests_explain_what_ids_do_not(model):
    without = MatrixFactorization(8, n_epochs=30).fit(USERS, ITEMS, RATINGS)
    assert rmse(model, True) < 0.45 < rmse(model) < rmse(without)


def test_an_item_without_ratings_is_scored_by_its_features(model):
    war, drama = (max(range(100), key=lambda user, kind=kind: TASTES[user, kind]) for kind in (2, 0))
    unrated = {KINDS[item % 3]: str(item) for item in range(402, 450, 2) if len(kinds(item)) == 1}
    assert model.predict(war, unrated["war"]) > model.predict(war, unrated["drama"]) or TASTES[war, 0] > 1
    assert model.predict(drama, unrated["drama"]) > model.predict(drama, "never seen at all") - 1
    assert 0.0 < model.confidence(war, unrated["war"]) < model.confidence(war, ITEMS[0]) < 1.0


def test_all_ways_to_a_score_give_the_same_bits_with_features_too(model):
    users, items, features = USERS[:60].tolist(), ITEMS[:60].tolist(), REQUESTS[:60]
    many = model.predict_many(users, items, features).tolist()
    assert many == [model.predict(*one) for one in zip(users, items, features, strict=True)]
    assert model.predict_items(3, items, {"evening": True}).tolist() == [
        model.predict(3, item, {"evening": True}) for item in items
    ]
    ranked = model.top_k(3, 5, features={"evening": True})
    assert ranked == [(item, model.predict(3, item, {"evening": True})) for item, _ in ranked]
    assert model.predict(3, 4, {}) == model.predict(3, 4)


def test_a_feature_never_seen_is_left_out(model):
    assert model.predict(3, 4, {"evening": "perhaps"}) == model.predict(3, 4)
    assert model.predict(3, 4, {"evening": True, "more": 5}) == model.predict(3, 4, {"evening": True})


def test_what_is_saved_is_what_is_loaded(model, tmp_path):
    model.save(tmp_path / "m")
    again = load_model(Artifact.map(tmp_path / "m"))
    assert type(again) is FactorizationMachine
    for features in (None, {"evening": True}):
        assert again.top_k(7, 450, features=features) == model.top_k(7, 450, features=features)
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_it_goes_on_learning_from_features_that_are_new(tmp_path):
    stayed = fitted()
    stayed.save(tmp_path / "m")
    again = FactorizationMachine.load(tmp_path / "m")
    columns = USERS[:300], ITEMS[:300], RATINGS[:300] + 1.0
    weather = [{"evening": True, "weather": "rain"}] * 300
    for each in (stayed, again):
        each.partial_fit(*columns, weather)
    np.testing.assert_allclose(
        again.predict_many(*columns[:2], weather), stayed.predict_many(*columns[:2], weather), atol=1e-9
    )
    assert again.predict(3, 4, weather[0]) > again.predict(3, 4, {"evening": True})
    for each in (stayed, again):
        each.partial_fit(3, 4, 1.0, {"weather": "snow"})
    assert again.predict(3, 4, {"weather": "snow"}) == stayed.predict(3, 4, {"weather": "snow"})


def test_hashed_features_share_columns():
    names = [{"title": f"title {number}"} for number in range(N)]
    model = FactorizationMachine(4, n_epochs=2, hashed={"request:title": 50}).fit(
        USERS, ITEMS, RATINGS, features=names
    )
    scores = {model.predict(1, 1, {"title": f"title {number}"}) for number in range(N)}
    assert 30 < len(scores) <= 50
    assert model.predict(1, 1, {"title": "never seen"}) in scores


@pytest.mark.parametrize(
    "features",
    [
        [1.0],
        {"": 1},
        {"x": math.nan},
        {"x": None},
        {"x": {"y": 1}},
        {"x": [1, 2]},
        {"x" * 129: 1},
        {"a\nb": 1},
        {"x": [str(number) for number in range(257)]},
        {5: 1},
    ],
)
def test_what_is_not_a_feature_is_refused(model, features):
    with pytest.raises(InvalidInput):
        model.predict(3, 4, features)
    with pytest.raises(InvalidInput):
        fitted(item_features={"1": features})
    before = model.predict(3, 4)
    with pytest.raises(InvalidInput):
        model.partial_fit([3, 3], [4, 4], [1.0, 2.0], [{"evening": True}, features])
    assert model.predict(3, 4) == before


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(
            st.text(max_size=300), st.booleans(), st.floats(), st.lists(st.text(max_size=3), max_size=4)
        ),
    )
)
def test_any_features_are_a_score_or_refused(features):
    model = FactorizationMachine(2, n_epochs=1).fit(["u"], ["i"], [1.0])
    with contextlib.suppress(InvalidInput):
        assert math.isfinite(model.predict("u", "i", features))
        model.partial_fit("u", "i", 3.0, features)
    assert math.isfinite(model.predict("u", "i"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"item_features": lambda a: a * 0 + 99}, "does not exist"),
        ({"item_features": lambda a: a * 0 - 1}, "does not exist"),
        ({"item_feature_starts": lambda a: a + 1}, "do not fit"),
        ({"item_feature_starts": lambda a: a[::-1].copy()}, "do not fit"),
        ({"item_feature_values": lambda a: a * np.float32(np.inf)}, "not finite"),
        ({"item_vectors": lambda a: a * np.float32(np.nan)}, "not finite"),
        ({"feature_scales": lambda a: a - 5}, "scale"),
        ({"feature_vectors": lambda a: a[:-1].copy()}, "must be F32"),
        ({"item_counts": lambda a: a - 2**20}, "negative"),
    ],
)
def test_a_file_with_wrong_tensors_is_refused_with_the_reason(model, tmp_path, change, match):
    tensors = model._tensors()
    for name, of in change.items():
        tensors[name] = of(tensors[name])
    artifact.write(tmp_path / "m", model.family, model.parameters, tensors)
    with pytest.raises(InvalidArtifact, match=match):
        FactorizationMachine.load(tmp_path / "m")


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InvalidInput, match="as many features"):
        FactorizationMachine().fit(["u"], ["i"], [1.0], features=[{}, {}])
    with pytest.raises(InvalidInput, match="as many features"):
        FactorizationMachine().fit(["u"], ["i"], [1.0], features={"a": 1})
    with pytest.raises(InvalidInput, match="hashed"):
        FactorizationMachine(hashed={"x": 0})
