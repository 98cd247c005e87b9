import numpy as np
import pytest

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models import Popularity, artifact
from bandit_serve.models._ids import IdTable
from bandit_serve.models.ids import id_tensors


@pytest.fixture
def model() -> Popularity:
    return Popularity().fit(list("uvwuvu"), ["b", "b", "b", "c", "a", "d"], [5, 1, 1, 5, 5, 5])


def test_the_score_is_the_number_of_ratings_for_everybody(model):
    assert model.predict("u", "b") == model.predict("nobody", "b") == 3.0
    assert model.predict_items("u", ["a", "zz", "b"]).tolist() == [1.0, 0.0, 3.0]
    assert model.n_users == 3


def test_the_ranking_is_by_count_then_id(model):
    assert model.top_k("u") == [("b", 3.0), ("a", 1.0), ("c", 1.0), ("d", 1.0)]
    assert model.top_k("u", 2, exclude=["b", "c", "nix"]) == [("a", 1.0), ("d", 1.0)]


def test_confidence_is_of_the_item(model):
    assert [model.confidence("new", item) for item in ("b", "a", "z")] == [3 / 13, 1 / 11, 0.0]


def test_the_user_does_not_matter_to_what_it_knows(model):
    assert model.knows("nobody", "a")
    assert not model.knows("u", "z")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"counts": np.array([1, 0, 1, 1])}, "1 or more"),
        ({"counts": np.array([1, -(2**63), 1, 1])}, "1 or more"),
        ({"counts": np.array([1, 1])}, "must be I64"),
        ({"counts": np.array([1.0, 1, 1, 1])}, "must be I64"),
        (id_tensors(IdTable.of([]), "user"), "1 or more"),
    ],
)
def test_a_file_with_wrong_tensors_is_refused_with_the_reason(tmp_path, change, match):
    tensors = {
        "counts": np.array([1, 3, 1, 1]),
        **id_tensors(IdTable.of("uvw"), "user"),
        **id_tensors(IdTable.of("abcd"), "item"),
        **change,
    }
    artifact.write(tmp_path / "p", "popularity", {}, tensors)
    with pytest.raises(InvalidArtifact, match=match):
        Popularity.load(tmp_path / "p")
