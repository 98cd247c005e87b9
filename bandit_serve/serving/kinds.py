"""Kinds of versions: how each is opened, and what it asks of a request."""

from __future__ import annotations

from msgspec import UNSET

from bandit_serve.errors import InvalidArtifact
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.family import load_model
from bandit_serve.models.onnx.file import OnnxFile
from bandit_serve.models.onnx.session import Session
from bandit_serve.registry.registry import Version
from bandit_serve.serving.family_version import FamilyVersion
from bandit_serve.serving.onnx_version import OnnxVersion, onnx_check
from bandit_serve.serving.request_form import check_family_request
from bandit_serve.serving.servable import Check, Servable
from bandit_serve.serving.top_k_cache import TopKCache


def check_of(version: Version) -> Check:
    """Check that the version makes of every request."""
    return check_family_request if version.signature is UNSET else onnx_check(version.signature)


class VersionOpener:
    """Opens versions of all kinds. Those with files have them in `artifacts`."""

    def __init__(self, artifacts: ArtifactStore, top_k: TopKCache) -> None:
        self.artifacts = artifacts
        self._top_k = top_k

    def open(self, version: Version) -> Servable:
        """Version, ready but for its `warm`. Blocks: to be called in a thread.

        Raises `InvalidArtifact` or `NotFound` for its file, `Unavailable` where that can not be read now, and
        `NotInstalled`.
        """
        file = self.artifacts.open(version.sha256)
        if version.signature is UNSET:
            return FamilyVersion(load_model(file), version.sha256, self._top_k)
        if not isinstance(file, OnnxFile):
            raise InvalidArtifact("The artifact is no ONNX file.")
        return OnnxVersion(Session(bytes(file.buffer), version.signature))
