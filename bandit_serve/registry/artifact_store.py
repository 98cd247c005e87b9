"""Artifact store of this installation, as the settings say."""

from __future__ import annotations

from bandit_serve.base.private_files import own_folder
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.model_file import read_model_file
from bandit_serve.models.remote import FsspecRemote, Remote
from bandit_serve.settings import Settings
from bandit_serve.store.files import StoreFiles

IN_THE_STORE = "store"


def open_artifacts(settings: Settings, store_url: str) -> ArtifactStore:
    """Local directory, with the remote that `artifacts` names behind it. `UsageError` for one that is none."""
    remote: Remote | None = None
    if settings.artifacts == IN_THE_STORE:
        remote = StoreFiles(store_url, settings.namespace)
    elif settings.artifacts is not None:
        remote = FsspecRemote(settings.artifacts)
    own_folder(settings.data_dir)
    return ArtifactStore(
        settings.data_dir / "artifacts", max_bytes=settings.max_artifact, remote=remote, read=read_model_file
    )
