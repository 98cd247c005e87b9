"""Features of a context."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.policies import Features, LinUCB
from bandit_serve.policies.context import ContextField

HOUR = ContextField("hour", "numeric", mean=12.0, std=6.0)
AGE = ContextField("age", "numeric")
DEVICE = ContextField("device", "categorical", values=["ios", "web"])
CITY = ContextField("city", "categorical", buckets=5)


def named(features, context):
    return {
        name: value for name, value in zip(features.names, features.vector(context), strict=True) if value
    }


def test_each_kind_of_field_has_its_features():
    features = Features([HOUR, DEVICE, CITY])
    assert features.n_features == 1 + 2 + 3 + 6
    vector = features.vector({"hour": 18, "device": "web", "city": "Ulm"})
    assert vector.dtype == np.float32
    values = named(features, {"hour": 18, "device": "web", "city": "Ulm"})
    (bucket,) = [name for name in values if name.startswith("city")]
    assert values == {"intercept": 1, "hour": 1, "device = web": 1, bucket: 1}
    assert "#" in bucket
    assert features.missing == features.unknown == {"hour": 0, "device": 0, "city": 0}


def test_a_number_is_used_as_it_is_where_no_scaling_is_given():
    assert named(Features([AGE]), {"age": 41.5}) == {"intercept": 1, "age": 41.5}
    assert named(Features([AGE]), {"age": True}) == {"intercept": 1, "age": 1}
    assert named(Features([AGE]), {"age": 10**300})["age"] == 1e6


def test_what_is_missing_or_unknown_is_counted_and_has_its_own_feature():
    features = Features([HOUR, DEVICE, CITY])
    absent = {"intercept": 1, "hour missing": 1, "device other": 1, "city missing": 1}
    assert named(features, {}) == absent
    assert named(features, {"hour": None, "device": None, "city": None}) == absent
    assert features.missing == {"hour": 2, "device": 2, "city": 2}
    for hour in ("noon", float("nan"), float("inf"), 10**400, [1]):
        assert named(features, {"hour": hour, "device": "tv", "city": "x"})["hour missing"] == 1
    assert features.unknown == {"hour": 5, "device": 5, "city": 0}
    assert features.unexpected == 0
    features.vector({"other": 1, "hour": 1})
    assert features.unexpected == 1


def test_categories_are_written_as_json_writes_them():
    features = Features([ContextField("v", "categorical", values=["true", "3", "2.5"])])
    for value, name in ((True, "true"), ("true", "true"), (3, "3"), (3.0, "3"), ("3", "3"), (2.5, "2.5")):
        assert f"v = {name}" in named(features, {"v": value})


def test_hashing_is_the_same_in_every_process_and_uses_all_buckets():
    features = Features([CITY])
    assert [int(features.vector({"city": c})[1:].argmax()) for c in ("Ulm", "Rom", "Oslo")] == [1, 3, 2]
    used = {int(features.vector({"city": str(i)})[1:].argmax()) for i in range(200)}
    assert used == {0, 1, 2, 3, 4}


def test_interactions_are_products_and_two_that_name_each_other_are_one():
    hour = ContextField("hour", "numeric", interactions=["device"])
    device = ContextField("device", "categorical", values=["ios", "web"], interactions=["hour"])
    features = Features([hour, device])
    assert features.n_features == 1 + 2 + 3 + 2 * 3
    assert named(features, {"hour": 5, "device": "ios"}) == {
        "intercept": 1,
        "hour": 5,
        "device = ios": 1,
        "hour × device = ios": 5,
    }
    assert named(features, {"device": "web"})["hour missing × device = web"] == 1


def test_rows_are_the_vectors_and_a_policy_takes_them():
    features = Features([HOUR, DEVICE])
    contexts = [{"hour": h, "device": d} for h, d in ((1, "ios"), (2, None), (3, "tv"))]
    rows = features.vectors(contexts)
    np.testing.assert_array_equal(rows, [features.vector(context) for context in contexts])
    assert features.vectors([]).shape == (0, 6)
    policy = LinUCB(2, features.n_features, seed=1)
    policy.update_many([0, 1, 0], [1, 0, 1], rows)
    assert policy.shares(features.vector({})).sum() == 1
    assert Features([]).vector({"x": 1}).tolist() == [1.0]


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "ios", "3", "\udc80", "é" * 300])
)


@given(st.dictionaries(st.sampled_from(["hour", "age", "device", "city", "x"]), values))
def test_nothing_is_refused_and_every_feature_is_finite(context):
    cross = ContextField("hour", "numeric", std=1e-70, interactions=["age", "city"])
    assert np.isfinite(Features([cross, AGE, DEVICE, CITY]).vector(context)).all()


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ([AGE, AGE], "context[1].name"),
        ([ContextField("a", "categorical")], "context[0]"),
        ([ContextField("a", "categorical", values=["x"], buckets=3)], "context[0]"),
        ([ContextField("a", "categorical", values=["x", "x"])], "context[0].values"),
        ([ContextField("a", "categorical", values=["x"], mean=1.0)], "context[0]"),
        ([ContextField("a", "numeric", values=["x"])], "context[0]"),
        ([ContextField("a", "numeric", interactions=["b"])], "context[0].interactions[0]"),
        ([ContextField("a", "numeric", interactions=["a"])], "context[0].interactions[0]"),
        ([ContextField("a", "numeric", interactions=["age", "age"]), AGE], "context[0].interactions[1]"),
    ],
)
def test_fields_that_cannot_be_are_named(fields, at):
    with pytest.raises(InvalidInput) as refused:
        Features(fields)
    assert [error.at for error in refused.value.errors] == [at]
