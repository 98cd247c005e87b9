"""Model file that a batch is scored with, as every process that scores finds it."""

from __future__ import annotations

import os

from msgspec import UNSET, Struct, UnsetType

from bandit_serve.errors import InvalidArtifact, UsageError
from bandit_serve.models.artifact import ArtifactStore, map_file
from bandit_serve.models.family import load_model
from bandit_serve.models.model import Model
from bandit_serve.models.model_file import admit_model_file, read_model_file
from bandit_serve.models.onnx.file import OnnxFile
from bandit_serve.models.onnx.session import Session
from bandit_serve.models.onnx.signature import Signature
from bandit_serve.registry.registry import Version
from bandit_serve.serving.loaded import require_servable
from bandit_serve.serving.onnx_version import OnnxVersion


class ModelSource(Struct, frozen=True):
    """Path of a checked model file, the SHA-256 of its content, and the signature of its graph if it is one."""

    path: str
    sha256: str
    signature: Signature | UnsetType = UNSET

    def open(self) -> Model | OnnxVersion:
        """Maps the file.

        Raises `InvalidArtifact`, also for another content, `NotFound` and, for a graph, `NotInstalled`.
        """
        file = read_model_file(map_file(self.path))
        if file.sha256 != self.sha256:
            raise InvalidArtifact(
                f"The model file {self.path!r} has another content than where the batch began."
            )
        if isinstance(file, OnnxFile):
            assert self.signature is not UNSET
            return OnnxVersion(Session(bytes(file.buffer), self.signature))
        return load_model(file)


def of_file(path: str | os.PathLike[str]) -> ModelSource:
    """Source of a model file, after checking it as its registration does. Raises `InvalidArtifact`, `NotFound`."""
    file = read_model_file(map_file(path))
    signature = admit_model_file(file)
    return ModelSource(os.fspath(path), file.sha256, UNSET if signature is None else signature)


def of_version(artifacts: ArtifactStore, version: Version) -> ModelSource:
    """Source of a registered version, whose file is fetched where it is not here.

    Raises `Conflict` for one that may not serve, `UsageError` for one whose answers come from an upstream, and what
    `ArtifactStore.open` raises.
    """
    require_servable(version)
    if version.remote is not UNSET:
        raise UsageError(
            f"The version {version.version!r} of {version.model!r} has no file: its answers come from "
            f"{version.remote.url}."
        )
    artifacts.open(version.sha256)
    return ModelSource(os.fspath(artifacts.path(version.sha256)), version.sha256, version.signature)
