"""Search tables of model files: a file whose tables do not match its factors is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models import MatrixFactorization, factorized
from bandit_serve.models._top_k import TopK
from bandit_serve.models.artifact import Artifact, write
from bandit_serve.models.family import admit_model, load_model
from bandit_serve.models.search_tables import check_search_tables


def items(n: int, f: int, seed: int, scale: float, biased: bool) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    factors = (rng.standard_normal((n, f)) * scale).astype(np.float32)
    biases = rng.standard_normal(n).astype(np.float32) if biased else np.zeros(n, np.float32)
    return factors, biases


@given(
    n=st.integers(1, 40),
    f=st.integers(1, 13),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-38, 1e-20, 1e-3, 1.0, 1e6, 1e15]),
    biased=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_what_was_computed_from_the_items_is_taken(
    n: int, f: int, seed: int, scale: float, biased: bool
) -> None:
    factors, biases = items(n, f, seed, scale, biased)
    check_search_tables(factors, biases, TopK(factors, biases).parts())


CHANGES = ["codes", "scales", "norms", "errors", "biases", "order", "nan", "lower bound"]


@given(
    n=st.integers(2, 40),
    f=st.integers(1, 13),
    seed=st.integers(0, 2**32 - 1),
    change=st.sampled_from(CHANGES),
)
@settings(max_examples=400, deadline=None)
def test_what_is_of_other_items_is_refused(n: int, f: int, seed: int, change: str) -> None:
    factors, biases = items(n, f, seed, 1.0, True)
    tables = {name: part.copy() for name, part in TopK(factors, biases).parts().items()}
    rng = np.random.default_rng(seed)
    block, lane = 0, rng.integers(min(n, 8))
    match change:
        case "codes":
            place = lane * 4
            tables["codes"][place] = (int(tables["codes"][place]) + 128) % 256
            if tables["errors"][block] == 0.0:
                return
        case "order":
            tables["order"] = np.roll(tables["order"], 1)
        case "biases":
            tables["biases"][lane] += 1.0
        case "nan":
            tables[rng.choice(["scales", "norms", "errors"])][block] = np.nan
        case "lower bound":
            tables["norms"][block] *= 0.5
        case name:
            tables[name][block] = tables[name][block] * 1.5 + 0.01
    with pytest.raises(InvalidArtifact, match="search tables are not those"):
        check_search_tables(factors, biases, tables)


def test_a_hostile_file_ranks_wrongly_and_is_not_admitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factorized, "SEARCHABLE", 1)
    rng = np.random.default_rng(5)
    users, ids = rng.integers(0, 30, 2_000), rng.integers(0, 200, 2_000)
    model = MatrixFactorization(n_factors=8, seed=0).fit(users, ids, rng.uniform(1, 5, 2_000))
    honest = tmp_path / "honest"
    model.save(honest)
    best = model.top_k("3", k=5)
    assert admit_model(Artifact.map(honest)).top_k("3", k=5) == best

    tensors = {name: part.copy() for name, part in model._tensors().items()}
    tensors["top_k_norms"][:] = 1e-6
    tensors["top_k_errors"][:] = 0.0
    tensors["top_k_codes"][:] = 128
    hostile = tmp_path / "hostile"
    write(hostile, model.family, model.parameters, tensors)
    assert load_model(Artifact.map(hostile)).top_k("3", k=5) != best
    with pytest.raises(InvalidArtifact, match="search tables are not those"):
        admit_model(Artifact.map(hostile))
