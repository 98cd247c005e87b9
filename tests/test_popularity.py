import numpy as np
import pytest

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models import Artifact, Popularity, artifact
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


def test_the_user_does_not_matter_to_what_it_knows(model):
    assert model.knows("nobody", "a")
    assert not model.knows("u", "z")


def test_a_loaded_model_reads_the_mapped_file_itself(model, tmp_path):
    model.save(tmp_path / "p")
    mapped = Artifact.map(tmp_path / "p")
    again = Popularity.from_artifact(mapped)
    assert np.shares_memory(again.counts, np.frombuffer(mapped.buffer, np.uint8))
    assert again.n_users == 3


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"counts": np.array([1, 0, 1, 1])}, "1 or more"),
        ({"counts": np.array([1, -(2**63), 1, 1])}, "1 or more"),
        ({"counts": np.array([1, 1])}, "must be I64"),
        ({"counts": np.array([1.0, 1, 1, 1])}, "must be I64"),
        ({"n_users": np.array([0])}, "1 or more"),
        ({"n_users": np.array([1, 1])}, "must be I64"),
    ],
)
def test_a_file_with_wrong_tensors_is_refused_with_the_reason(model, tmp_path, change, match):
    tensors = {
        "n_users": np.array([3]),
        "counts": model.counts,
        **id_tensors(model.item_ids, "item"),
        **change,
    }
    artifact.write(tmp_path / "p", "popularity", {}, tensors)
    with pytest.raises(InvalidArtifact, match=match):
        Popularity.load(tmp_path / "p")
