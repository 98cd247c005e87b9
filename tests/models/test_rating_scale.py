"""Rating scales: a model of a·r + b predicts a times the model of r, plus b, in training, learning and serving."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models import (
    Artifact,
    Bias,
    FactorizationMachine,
    MatrixFactorization,
    artifact,
    load_model,
)
from bandit_serve.models.rating_scale import RatingScale
from bandit_serve.training.ratings import synthetic_ratings

MADE = synthetic_ratings(seed=3, n_users=60, n_items=90, n_ratings=1_500)
STARS = MADE.values.astype(np.float64)
GENRES = {item: {"genre": item[-1]} for item in set(MADE.items.tolist())}
FAMILIES = {
    "mf": lambda: MatrixFactorization(8, n_epochs=6),
    "fm": lambda: FactorizationMachine(8, n_epochs=6),
    "bias": Bias,
}
USERS, ITEMS = [*MADE.users[:200].tolist(), "new", "u1"], [*MADE.items[:200].tolist(), "i1", "new"]
MORE = [("u1", "i1", 5.0), ("new", "i2", 0.5), ("u2", "fresh", 4.0), ("new", "fresh", 1.0)]


def fitted(family, factor=1.0, shift=0.0, values=STARS):
    features = {"item_features": GENRES} if family == "fm" else {}
    errors = []
    model = FAMILIES[family]()
    model.fit(
        MADE.users,
        MADE.items,
        factor * values + shift,
        validation=(MADE.users[:300], MADE.items[:300], factor * values[:300] + shift),
        on_epoch=lambda done, epochs, rmse: errors.append(rmse),
        **features,
    )
    return model, np.array(errors)


def learned(model, factor=1.0, shift=0.0):
    for user, item, stars in MORE:
        model.partial_fit(user, item, factor * stars + shift)
    return model


STANDARD = {family: fitted(family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(
    st.floats(-7, 8).map(lambda exponent: float(f"{10**exponent:.3g}")),
    st.sampled_from([0.0, -1.0, 3.0, 1e3]),
)
@example(20.0, 0.0)
@example(100.0, 0.0)
@example(0.2, 0.0)
@example(1e10, 0.0)
def test_a_model_follows_the_unit_of_its_ratings(family, factor, shift):
    stars, rmses = STANDARD[family]
    scaled, errors = fitted(family, factor, factor * shift)
    # Float32 rounds the parameters, and each epoch carries on what the one before it rounded.
    close = {"rtol": 0, "atol": 2e-3 if shift < 100 else 2e-2}
    back = (scaled.predict_many(USERS, ITEMS) - factor * shift) / factor
    np.testing.assert_allclose(back, stars.predict_many(USERS, ITEMS), **close)
    np.testing.assert_allclose(errors / factor, rmses, **close)
    assert scaled.confidence("u1", "i1") == stars.confidence("u1", "i1")
    again = fitted(family)[0]
    learned(again), learned(scaled, factor, factor * shift)
    back = (scaled.predict_many(USERS, ITEMS) - factor * shift) / factor
    np.testing.assert_allclose(back, again.predict_many(USERS, ITEMS), **close)
    assert scaled.confidence("new", "fresh") == again.confidence("new", "fresh") > 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_keeps_the_unit_for_what_is_learned_later(family, tmp_path):
    live, _ = fitted(family, 25.0)
    live.save(tmp_path / "m")
    loaded = load_model(Artifact.map(tmp_path / "m"))
    assert loaded.rating_unit == live.rating_unit == pytest.approx(25 * STANDARD[family][0].rating_unit)
    for _ in range(2):
        learned(live, 25.0), learned(loaded, 25.0)
        loaded.save(tmp_path / "again")
        loaded = load_model(Artifact.map(tmp_path / "again"))
        np.testing.assert_allclose(
            loaded.predict_many(USERS, ITEMS), live.predict_many(USERS, ITEMS), rtol=0, atol=1e-3
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_that_does_not_say_has_the_unit_one(family, tmp_path):
    model, _ = fitted(family, 3.0)
    model.save(tmp_path / "m")
    tensors = safetensors.numpy.load_file(tmp_path / "m")
    unit = tensors.pop("rating_unit")
    artifact.write(tmp_path / "before", model.family, model.parameters, tensors)
    before = load_model(Artifact.map(tmp_path / "before"))
    assert before.rating_unit == 1.0
    assert (before.predict_many(USERS, ITEMS) == model.predict_many(USERS, ITEMS)).all()
    artifact.write(tmp_path / "one", model.family, model.parameters, {**tensors, "rating_unit": np.ones(1)})
    one = load_model(Artifact.map(tmp_path / "one"))
    learned(before), learned(one)
    assert (before.predict_many(USERS, ITEMS) == one.predict_many(USERS, ITEMS)).all()
    for wrong in (0.0, -1.0, np.nan, np.inf, 1e40):
        artifact.write(
            tmp_path / "w", model.family, model.parameters, {**tensors, "rating_unit": unit * wrong}
        )
        with pytest.raises(InvalidArtifact, match="rating_unit"):
            load_model(Artifact.map(tmp_path / "w"))


@pytest.mark.parametrize("family", FAMILIES)
def test_play_counts_are_learned_and_the_largest_breaks_nothing(family):
    random = np.random.default_rng(4)
    plays = np.ceil(np.exp(2 * STARS - 6 + random.normal(0, 1, len(STARS))))
    assert plays.max() > 10 * plays.std() > 20 * np.median(plays)
    model = FAMILIES[family]().fit(MADE.users, MADE.items, plays)
    guessed = model.predict_many(MADE.users, MADE.items)
    assert np.corrcoef(guessed, plays)[0, 1] > 0.3
    plays[::301] = 1e9
    model = FAMILIES[family]().fit(MADE.users, MADE.items, plays)
    guessed = model.predict_many(MADE.users, MADE.items)
    assert np.mean((guessed - plays) ** 2) < plays.var()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [1.0, 0.1, -1e12, 1e-300, 0.0])
def test_ratings_that_are_all_equal_have_no_unit(family, value):
    assert RatingScale.of(np.full(1_000, value)).unit == 1.0
    model = FAMILIES[family]().fit(["a", "b", "a"], ["x", "x", "y"], [value] * 3)
    assert model.predict("b", "y") == pytest.approx(value, abs=0.1)
