"""Kinds of versions: how each is opened, and what it asks of a request."""

from __future__ import annotations

from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.family import load_model
from bandit_serve.registry.registry import Version
from bandit_serve.serving.family_version import FamilyVersion
from bandit_serve.serving.request_form import check_family_request
from bandit_serve.serving.servable import Check, Servable
from bandit_serve.serving.top_k_cache import TopKCache


def check_of(version: Version) -> Check:
    """Check that the version makes of every request."""
    return check_family_request


class VersionOpener:
    """Opens versions of all kinds. Those with files have them in `artifacts`."""

    def __init__(self, artifacts: ArtifactStore, top_k: TopKCache) -> None:
        self.artifacts = artifacts
        self._top_k = top_k

    def open(self, version: Version) -> Servable:
        """Version, ready but for its `warm`. Blocks: to be called in a thread.

        Raises `InvalidArtifact` or `NotFound` for its file, and `Unavailable` where that can not be read now.
        """
        model = load_model(self.artifacts.open(version.sha256))
        return FamilyVersion(model, version.sha256, self._top_k)
