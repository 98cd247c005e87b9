"""Models: trained here, kept as artifacts, scored in Cython."""

from bandit_serve.models.artifact import Artifact, ArtifactStore
from bandit_serve.models.bias import Bias
from bandit_serve.models.factorization import MatrixFactorization
from bandit_serve.models.factorization_machine import FactorizationMachine
from bandit_serve.models.family import FAMILIES, load_model
from bandit_serve.models.linear_items import LinearItems
from bandit_serve.models.model import Model
from bandit_serve.models.popularity import Popularity
from bandit_serve.models.weighted_als import WeightedALS

__all__ = [
    "FAMILIES",
    "Artifact",
    "ArtifactStore",
    "Bias",
    "FactorizationMachine",
    "LinearItems",
    "MatrixFactorization",
    "Model",
    "Popularity",
    "WeightedALS",
    "load_model",
]
