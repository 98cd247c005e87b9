"""Checks before the draw: whatever passes that of a family, its models score."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from bandit_serve.api.decisions import PredictRequest, ScoreRequest
from bandit_serve.base.clock import now_ms
from bandit_serve.errors import InvalidInput
from bandit_serve.models.family import FAMILIES
from bandit_serve.models.model import Model
from bandit_serve.registry.registry import Version
from bandit_serve.serving.family_version import FamilyVersion
from bandit_serve.serving.kinds import check_of, max_output_bytes, outputs_as_arm
from bandit_serve.serving.top_k_cache import TopKCache

USERS, ITEMS, RATINGS = ["u1", "u1", "u2"], ["i1", "i2", "i1"], [1.0, 5.0, 3.0]
NAMES = st.text(max_size=140)
NUMBERS = st.floats() | st.integers(-(2**70), 2**70)
FEATURES = (
    st.none()
    | st.dictionaries(NAMES, NUMBERS | NAMES | st.booleans() | st.lists(NAMES, max_size=260), max_size=6)
    | st.lists(NUMBERS, max_size=300)
)
IDS = st.sampled_from(["u1", "i1", "i2", "new"])
ANY_IDS = IDS | NAMES | st.sampled_from(["a\nb", "x" * 257, "ö" * 200])
ASKED = st.one_of(
    st.fixed_dictionaries({"item_id": ANY_IDS}),
    st.fixed_dictionaries({"item_ids": st.lists(ANY_IDS, max_size=4)}),
    st.fixed_dictionaries({"k": st.integers(1, 5)}, optional={"exclude": st.lists(ANY_IDS, max_size=3)}),
)
REQUESTS = st.builds(
    lambda user, features, asked: {"user_id": user, "features": features, **asked},
    IDS | ANY_IDS,
    FEATURES,
    ASKED,
)


def made(family: str) -> Model:
    kind = FAMILIES[family]
    features: dict[str, Any] = (
        {"features": [{"age": 3.0, "genres": ["a"]}] * 3} if kind.takes_features else {}
    )
    parameters = {"n_factors": 2, "n_epochs": 1} if "n_factors" in kind.search_space else {}
    return kind(**parameters).fit(USERS, ITEMS, RATINGS, **features)


MODELS = {family: made(family) for family in FAMILIES}


def version_of(family: str) -> Version:
    return Version("m", "v1", "staged", "0" * 64, 1, family, now_ms(), now_ms())


@pytest.mark.parametrize("family", FAMILIES)
@given(fields=REQUESTS)
def test_what_passes_the_check_is_scored(family: str, fields: dict[str, Any]) -> None:
    try:
        asked = msgspec.convert(fields, PredictRequest)
        check_of(version_of(family))(asked)
    except (msgspec.ValidationError, InvalidInput):
        return
    model = MODELS[family]
    scores = FamilyVersion(model, "", TopKCache(None, lifetime_s=60.0)).score(asked)
    if isawaitable(scores):
        with pytest.raises(StopIteration) as done:
            scores.send(None)
        scores = done.value.value
    assert scores.keys() <= {"prediction", "predictions", "items"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("features", "taken"),
    [
        ({"a": 1.0, "b": ["x"] * 255}, True),
        ({"a": 1.0, "b": ["x"] * 256}, False),
        ([1.0] * 256, True),
        ([1.0] * 257, False),
        ({"x" * 128: 1.0}, True),
        ({"x" * 129: 1.0}, False),
        ({"": 1.0}, False),
        ({"a": float("nan")}, False),
    ],
    ids=range(8),
)
def test_features_are_checked_for_families_that_take_them(family: str, features: Any, taken: bool) -> None:
    asked = ScoreRequest(user_id="u", item_id="i", features=features)
    if taken or not FAMILIES[family].takes_features:
        check_of(version_of(family))(asked)
    else:
        with pytest.raises(InvalidInput) as refused:
            check_of(version_of(family))(asked)
        assert refused.value.errors[0].at == "features"


def test_a_family_tells_its_outputs_without_its_file() -> None:
    for family in FAMILIES:
        outputs = outputs_as_arm(version_of(family))
        assert outputs is not None
        assert [each.name for each in outputs] == ["prediction"]
        assert max_output_bytes(version_of(family)) == 0
