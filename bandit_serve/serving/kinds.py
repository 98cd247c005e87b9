"""Kinds of versions: how each is opened, what it asks of a request, and what it answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import UNSET

from bandit_serve.api.inference import TensorMetadata
from bandit_serve.errors import InvalidArtifact
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.family import FAMILIES, load_model
from bandit_serve.models.onnx.file import OnnxFile
from bandit_serve.models.onnx.session import Session
from bandit_serve.registry.registry import Version
from bandit_serve.serving.family_version import FamilyVersion
from bandit_serve.serving.onnx_version import OnnxVersion, graph_outputs_as_arm, onnx_check
from bandit_serve.serving.request_form import check_family_request, check_request_with_features
from bandit_serve.serving.servable import Check, Servable
from bandit_serve.serving.top_k_cache import TopKCache
from bandit_serve.serving.upstream_version import UpstreamVersion, upstream_check
from bandit_serve.upstreams.pool import MAX_CONNECTIONS, UpstreamPool
from bandit_serve.upstreams.upstream import AllowedUpstreams

MAX_ROWS_AT_ONCE = 500


def check_of(version: Version) -> Check:
    """Check that the version makes of every request."""
    if version.remote is not UNSET:
        return upstream_check(version.remote)
    if version.signature is not UNSET:
        return onnx_check(version.signature)
    family = FAMILIES.get(version.family)
    takes_features = family is not None and family.takes_features
    return check_request_with_features if takes_features else check_family_request


def outputs_as_arm(version: Version) -> Sequence[TensorMetadata] | None:
    """Tensors that the version gives as an arm; None where only the version itself can tell."""
    if version.remote is not UNSET:
        return None
    if version.signature is UNSET:
        return FamilyVersion.outputs_as_arm
    return graph_outputs_as_arm(version.signature)


def list_inputs(version: Version) -> Collection[str] | None:
    """Names of inputs by which the version takes a list of numbers; None where any will do, or it alone can tell."""
    if version.remote is not UNSET:
        return None
    if version.signature is not UNSET:
        return [each.name for each in version.signature.inputs] if version.signature.is_matrix else ()
    return None if check_of(version) is check_request_with_features else ()


def max_output_bytes(version: Version) -> int:
    """Bytes of a row's `outputs` in an answer, at most; 0 where they are bounded as they come."""
    return 0 if version.signature is UNSET else version.signature.max_row_bytes


def patience_s(version: Version) -> float | None:
    """Longest time in seconds that a request waits for a version; None where that follows from the request alone."""
    return None if version.remote is UNSET else version.remote.timeout_s


def rows_at_once(version: Version) -> int:
    """Rows of one request that are asked of a version at a time: with more, they would wait for each other."""
    return MAX_ROWS_AT_ONCE if version.remote is UNSET else MAX_CONNECTIONS


class VersionOpener:
    """Opens versions of all kinds. Those with files have them in `artifacts`; without `upstreams`, none is allowed."""

    def __init__(
        self, artifacts: ArtifactStore, top_k: TopKCache, upstreams: UpstreamPool | None = None
    ) -> None:
        self.artifacts = artifacts
        self._top_k = top_k
        self._upstreams = UpstreamPool(AllowedUpstreams([])) if upstreams is None else upstreams

    def open(self, version: Version) -> Servable:
        """Version, ready but for its `warm`. Blocks: to be called in a thread.

        Raises `InvalidArtifact` or `NotFound` for its file, `Unavailable` where that can not be read now, and
        `NotInstalled`.
        """
        if version.remote is not UNSET:
            return UpstreamVersion(self._upstreams, version.remote, version.model, version.version)
        file = self.artifacts.open(version.sha256)
        if version.signature is UNSET:
            return FamilyVersion(load_model(file), version.sha256, self._top_k)
        if not isinstance(file, OnnxFile):
            raise InvalidArtifact("The artifact is no ONNX file.")
        return OnnxVersion(Session(bytes(file.buffer), version.signature))
