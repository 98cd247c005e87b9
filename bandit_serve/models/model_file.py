"""Model file of any kind that is served: a family's tensors, or an ONNX graph. Its content says which."""

from __future__ import annotations

import mmap

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models.artifact import Artifact
from bandit_serve.models.family import admit_model
from bandit_serve.models.foreign_files import foreign_sentence
from bandit_serve.models.onnx.admission import admit_onnx
from bandit_serve.models.onnx.file import OnnxFile
from bandit_serve.models.onnx.signature import Signature
from bandit_serve.models.onnx.wire import is_onnx

ModelFile = Artifact | OnnxFile


def read_model_file(buffer: bytes | mmap.mmap) -> ModelFile:
    """Model file with this content. `InvalidArtifact` for others, which says what to do with those of other tools."""
    refusal = foreign_sentence(buffer)
    if refusal is not None:
        raise InvalidArtifact(refusal)
    return OnnxFile(buffer) if is_onnx(bytes(buffer[:64])) else Artifact(buffer)


def admit_model_file(file: ModelFile) -> Signature | None:
    """Checks a file from outside; returns the signature of an ONNX graph. Raises `InvalidArtifact`."""
    if isinstance(file, OnnxFile):
        return admit_onnx(file)
    admit_model(file)
    return None
