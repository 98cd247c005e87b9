"""Bundle: the model that an image serves, as a folder with its file and a list, and its way into a registry.

The list has the file's SHA-256, which is checked when the bundle is made and when it is registered.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bandit_serve.base.names import Name
from bandit_serve.errors import Conflict, InvalidArtifact, UsageError
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.node import Node
from bandit_serve.registry.registry import REMOTE, ModelChanged, Registry, Version

LIST = "bundle.json"
WHO = "image"
CHUNK_BYTES = 2**20


class Bundled(Struct, frozen=True, forbid_unknown_fields=True):
    """Version in a bundle. `file` is the name of its file in the folder."""

    model: Name
    version: Name
    file: str
    sha256: str
    family: str
    metrics: dict[str, float] = {}
    metadata: dict[str, Any] = {}


def require_file(version: Version) -> None:
    """Raises `Conflict` for a version without a file to put into an image."""
    if version.family == REMOTE or version.pruned or not version.sha256:
        raise Conflict(
            f"The version {version.version!r} of {version.model!r} has no file to put into an image."
        )


def write_bundle(folder: Path, version: Version, artifacts: ArtifactStore) -> Bundled:
    """Writes a version into a folder, which is made. Raises `InvalidArtifact` where its file is not what it was."""
    require_file(version)
    folder.mkdir(mode=0o755)
    file = artifacts.open(version.sha256)
    place = folder / f"{version.sha256}.model"
    with place.open("wb") as copy:
        copy.write(file.buffer)  # type: ignore[attr-defined]
    _require_sha256(place, version.sha256)
    bundled = Bundled(
        version.model,
        version.version,
        place.name,
        version.sha256,
        version.family,
        version.metrics,
        version.metadata,
    )
    (folder / LIST).write_bytes(msgspec.json.format(msgspec.json.encode(bundled)))
    for each in folder.iterdir():
        each.chmod(0o444)
    return bundled


def read_bundle(folder: Path) -> Bundled:
    """Reads the list of a folder. Raises `UsageError` where there is none, `InvalidArtifact` for a damaged file."""
    try:
        bundled = msgspec.json.decode((folder / LIST).read_bytes(), type=Bundled)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"The setting bundle names {folder}, which is no bundle: {error}.") from None
    if Path(bundled.file).name != bundled.file:
        raise UsageError(f"The bundle {folder} names a file that is not in it.")
    _require_sha256(folder / bundled.file, bundled.sha256)
    return bundled


async def register_bundle(node: Node, folder: Path) -> None:
    """Registers the version of a bundle, unless it is there, and puts it into production where its model has none.

    Raises `Conflict` where the registry has another version of its name.
    """
    bundled = await asyncio.to_thread(read_bundle, folder)
    changes = node.model_changes
    model = (await changes.known()).models.get(bundled.model)
    there = None if model is None else model.versions.get(bundled.version)
    if there is None:
        await changes.register(
            bundled.model,
            folder / bundled.file,
            WHO,
            version=bundled.version,
            metrics=bundled.metrics,
            metadata=bundled.metadata,
        )
    elif there.sha256 != bundled.sha256:
        raise Conflict(
            f"The registry has another version {bundled.version!r} of {bundled.model!r} than this image."
        )
    else:
        # Another host may have registered it, whose files are not here.
        await asyncio.to_thread(node.artifacts.put, folder / bundled.file)
    now_ms = await node.store.time_ms()

    def promoted(registry: Registry) -> ModelChanged | None:
        record = registry.model(bundled.model)
        if record.production is not None or record.versions[bundled.version].status != "staged":
            return None
        return registry.move(
            bundled.model,
            bundled.version,
            "production",
            now_ms=now_ms,
            who=WHO,
            reason="It came with the image.",
        )

    await node.changes.change_models(promoted)


def _require_sha256(path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise InvalidArtifact(f"The model file of the image can not be read: {error.strerror}.") from None
    if digest.hexdigest() != sha256:
        raise InvalidArtifact(
            "The model file of the image is not the one that was registered: its SHA-256 differs."
        )
