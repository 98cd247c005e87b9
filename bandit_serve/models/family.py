"""Table of model families: one file, and one line here, make a family known everywhere."""

from __future__ import annotations

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models.artifact import Artifact, StoredFile
from bandit_serve.models.bias import Bias
from bandit_serve.models.factorization import MatrixFactorization
from bandit_serve.models.factorization_machine import FactorizationMachine
from bandit_serve.models.factorized import Factorized
from bandit_serve.models.linear_items import LinearItems
from bandit_serve.models.model import Model
from bandit_serve.models.popularity import Popularity
from bandit_serve.models.weighted_als import WeightedALS

FAMILIES: dict[str, type[Model]] = {
    kind.family: kind
    for kind in (
        MatrixFactorization,
        FactorizationMachine,
        LinearItems,
        WeightedALS,
        Bias,
        Popularity,
    )
}
# Families that the others have to beat, by the name that their metrics go by in gates.
BASELINES: dict[str, str] = {"baseline": Bias.family, "popular": Popularity.family}


def admit_model(artifact: Artifact) -> Model:
    """Model of a file from outside: as `load_model`, and content that loading trusts is checked, too."""
    model = load_model(artifact)
    if isinstance(model, Factorized):
        model.check_search_tables(artifact)
    return model


def load_model(artifact: StoredFile) -> Model:
    """Model in an artifact, by its family. Raises `InvalidArtifact`."""
    family = FAMILIES.get(artifact.family)
    if family is None or not isinstance(artifact, Artifact):
        raise InvalidArtifact(f"The artifact's family must be one of {', '.join(FAMILIES)}.")
    return family.from_artifact(artifact)
