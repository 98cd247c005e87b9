"""Routes of the registry: registration, status changes, searches and histories of versions."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from typing import IO, Annotated, Any

import msgspec
from aiohttp import BodyPartReader, web
from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.api.views import (
    LoadedBy,
    compare_versions,
    model_history_view,
    model_summary,
    model_view,
    version_view,
)
from bandit_serve.base.names import Name
from bandit_serve.base.nesting import TOO_DEEP, nesting_error_of_json
from bandit_serve.base.private_files import translating_disk_full
from bandit_serve.base.validation import as_invalid_input
from bandit_serve.changes.models import require_name
from bandit_serve.errors import FieldError, InvalidInput, TooLarge, UnsupportedMedia
from bandit_serve.registry.catalogue import CONDITION_PATTERN, KNOWN_FAMILIES, find_versions
from bandit_serve.registry.registry import Version, VersionStatus
from bandit_serve.server.arrival import Multipart, parts_in_turns
from bandit_serve.server.page import limit_of, page
from bandit_serve.server.service import Service
from bandit_serve.server.wire import EITHER, Body, actor, answer, answer_in_turns, require_once, reread_body
from bandit_serve.server.wire_form import JSON
from bandit_serve.upstreams.upstream import Upstream

MAX_METADATA_BYTES = 65_536
DEFAULT_PAGE = 100
CHUNK_BYTES = 2**20
EXPECTED_UPLOAD = "Expected multipart/form-data with the parts metadata and artifact"
# What a document of `documents.MAX_DOCUMENT_BYTES` may have.
MAX_ENTRIES = 10_000
Metrics = Annotated[dict[str, float], Meta(max_length=MAX_ENTRIES)]
Metadata = Annotated[dict[str, Any], Meta(max_length=MAX_ENTRIES)]


Family = Annotated[str, Meta(extra_json_schema={"enum": [*KNOWN_FAMILIES]})]
Condition = Annotated[str, Meta(extra_json_schema={"pattern": CONDITION_PATTERN})]


class VersionMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """Metadata of a version. `version` is `v1`, `v2`, … unless it is given; `remote` stands in for an artifact.

    `metadata.features` names the columns of an ONNX graph that has one input for all.
    """

    version: Name | None = None
    status: VersionStatus = "staged"
    metrics: Metrics = {}
    metadata: Metadata = {}
    remote: Upstream | None = None


class Upload(Struct, frozen=True):
    """Parts of a registration, which may come in either order. One with `remote` in its metadata has no artifact."""

    artifact: (
        Annotated[
            bytes, Meta(description="a safetensors or an ONNX file", extra_json_schema={"format": "binary"})
        ]
        | UnsetType
    ) = UNSET
    metadata: VersionMetadata = VersionMetadata()


class StatusRequest(Struct, frozen=True, forbid_unknown_fields=True):
    status: VersionStatus
    reason: Annotated[str, Meta(max_length=1_000)] | None = None


class RollbackRequest(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(max_length=1_000)] | None = None


class PatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    metrics: Metrics = {}
    metadata: Metadata = {}


class Loaded(Struct, frozen=True):
    model: str
    version: str
    loaded: bool


class ModelHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._changes = service.node.model_changes
        self._timeout_s = timeout_s = service.settings.seconds("body_timeout")
        self._status = Body(StatusRequest, timeout_s=timeout_s)
        self._rollback = Body(RollbackRequest, timeout_s=timeout_s, optional=True)
        self._remote = Body(VersionMetadata, timeout_s=timeout_s)
        self._patch = Body(PatchRequest, timeout_s=timeout_s)

    async def list_all(self, request: web.Request) -> web.Response:
        registry = await self._changes.known()
        names, after = page(request, sorted(registry.models))
        models = [registry.models[name] for name in names]
        fields = {"models": map(model_summary, models), **after}
        return await answer_in_turns(request, fields, "ask for fewer with ?limit=")

    async def show(self, request: web.Request) -> web.Response:
        registry = await self._changes.known()
        model = registry.model(request.match_info["model"])
        fields = {
            "model": model.name,
            "production": model.production,
            "versions": map(version_view, list(model.versions.values())),
            "history": map(model_history_view, list(model.history)),
        }
        return await answer_in_turns(request, fields, "ask for its versions page by page at /versions")

    async def show_version(self, request: web.Request) -> web.Response:
        registry = await self._changes.known()
        return answer(request, version_view(registry.version(*_reference(request))))

    async def loaded_by(self, request: web.Request) -> web.Response:
        model, version = _reference(request)
        (await self._changes.known()).version(model, version)
        return answer(request, LoadedBy(model, version, await self._changes.loaded_by(model, version)))

    async def find(self, request: web.Request) -> web.Response:
        """Answers with one page of a model's versions, by status, family, metrics and text."""
        query, limit = request.query, limit_of(request)
        registry = await self._changes.known()
        listing = find_versions(
            registry.model(request.match_info["model"]),
            statuses=query.getall("status", []),
            family=query.get("family"),
            metrics=query.getall("metric", []),
            text=query.get("text"),
            sort=query.get("sort", "-created"),
            limit=DEFAULT_PAGE if limit is None else limit,
            after=query.get("after"),
        )
        fields = {
            "versions": map(version_view, listing.versions),
            "total": listing.total,
            "after": listing.after,
        }
        return await answer_in_turns(request, fields, "ask for fewer with ?limit=")

    async def compare(self, request: web.Request) -> web.Response:
        registry, model = await self._changes.known(), request.match_info["model"]
        names = [request.query.get(name) for name in ("a", "b")]
        if None in names:
            raise InvalidInput("Which versions? Expected a and b in the query.")
        a, b = (registry.version(model, str(name)) for name in names)
        return answer(request, compare_versions(a, b))

    async def agreement(self, request: web.Request) -> web.Response:
        return answer(request, await self._changes.agreement(*_reference(request)))

    async def register(self, request: web.Request) -> web.Response:
        """Registers an upload, or a remote version, which may come in JSON or MessagePack.

        An upload is checked when all of it is here, as its parts come in either order.
        """
        model = request.match_info["model"]
        require_name("model", model)
        if request.content_type in EITHER:
            metadata = await self._remote.read(request)
            if metadata.remote is None:
                raise UnsupportedMedia(f"{EXPECTED_UPLOAD}, or JSON or MessagePack with remote.")
            version = await self._register_remote(model, metadata, request)
            return answer(request, version_view(version), status=201)
        with (
            translating_disk_full(),
            tempfile.TemporaryFile(dir=self._service.node.artifacts.root) as spool,
        ):
            metadata, has_artifact = await self._read_upload(request, spool)
            if has_artifact and metadata.remote is not None:
                detail = "expected either this or an artifact"
                raise InvalidInput(f"metadata.remote: {detail}.", [FieldError("metadata.remote", detail)])
            with _in_its_part():
                if not has_artifact:
                    version = await self._register_remote(model, metadata, request)
                else:
                    spool.seek(0)
                    version = await self._changes.register(
                        model,
                        spool,
                        actor(request),
                        version=metadata.version,
                        status=metadata.status,
                        metrics=metadata.metrics,
                        metadata=metadata.metadata,
                    )
        return answer(request, version_view(version), status=201)

    async def _register_remote(self, model: str, metadata: VersionMetadata, request: web.Request) -> Version:
        if metadata.remote is None:
            detail = "expected a part artifact with a safetensors file, or remote in the metadata"
            raise InvalidInput(f"artifact: {detail}.", [FieldError("artifact", detail)])
        return await self._changes.register_remote(
            model,
            metadata.remote,
            actor(request),
            version=metadata.version,
            status=metadata.status,
            metrics=metadata.metrics,
            metadata=metadata.metadata,
        )

    async def set_status(self, request: web.Request) -> web.Response:
        asked = await self._status.read(request)
        version = await self._changes.set_status(
            *_reference(request), asked.status, actor(request), reason=asked.reason
        )
        return answer(request, version_view(version))

    async def rollback(self, request: web.Request) -> web.Response:
        asked = await self._rollback.read(request)
        model = await self._changes.rollback(request.match_info["model"], actor(request), reason=asked.reason)
        return answer(request, model_view(model))

    async def patch(self, request: web.Request) -> web.Response:
        asked = await self._patch.read(request)
        version = await self._changes.patch(
            *_reference(request), actor(request), metrics=asked.metrics, metadata=asked.metadata
        )
        return answer(request, version_view(version))

    async def load(self, request: web.Request) -> web.Response:
        registry = await self._changes.known()
        version = registry.version(*_reference(request))
        await self._service.node.models.load(version)
        return answer(request, Loaded(version.model, version.version, True))

    async def _read_upload(self, request: web.Request, spool: IO[bytes]) -> tuple[VersionMetadata, bool]:
        """Reads the parts `metadata` and `artifact`, in either order; writes the artifact to `spool`.

        Returns the metadata, and whether there was an artifact.
        """
        if not request.content_type.startswith("multipart/"):
            raise UnsupportedMedia(f"{EXPECTED_UPLOAD}.")
        metadata = VersionMetadata()
        came = False
        coming = Multipart(self._timeout_s)
        reader = await coming.next(parts_in_turns(request))
        while (part := await coming.next(reader.next())) is not None:
            if not isinstance(part, BodyPartReader):
                raise InvalidInput("The upload has a part inside a part: expected metadata and artifact.")
            if part.name == "metadata":
                metadata = await self._read_metadata(part, coming)
            elif part.name == "artifact":
                await self._spool(part, coming, spool)
                came = True
            else:
                raise InvalidInput(f"The upload has a part {part.name!r}: expected metadata and artifact.")
        return metadata, came

    async def _read_metadata(self, part: BodyPartReader, coming: Multipart) -> VersionMetadata:
        content = bytearray()
        while chunk := await coming.next(part.read_chunk()):
            content += chunk
            if len(content) > MAX_METADATA_BYTES:
                raise InvalidInput(f"metadata: expected at most {MAX_METADATA_BYTES} bytes.")
        if nesting_error_of_json(bytes(content)) is not None:
            raise as_invalid_input([FieldError("metadata", TOO_DEEP)])
        try:
            metadata = msgspec.json.decode(content, type=VersionMetadata)
        except msgspec.ValidationError as error:
            metadata = reread_body(bytes(content), JSON, VersionMetadata, error, "metadata")
        except msgspec.DecodeError as error:
            raise InvalidInput(f"metadata: {error}.", [FieldError("metadata", str(error))]) from None
        await require_once(bytes(content), within="metadata")
        return metadata

    async def _spool(self, part: BodyPartReader, coming: Multipart, spool: IO[bytes]) -> None:
        """Takes the last part of the path as the name."""
        max_bytes = self._service.node.artifacts.max_bytes
        await asyncio.to_thread(_empty, spool)
        size = 0
        while chunk := await coming.next(part.read_chunk(CHUNK_BYTES)):
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge(f"The artifact is larger than {max_bytes} bytes.")
            await asyncio.to_thread(spool.write, chunk)


@contextlib.contextmanager
def _in_its_part() -> Iterator[None]:
    """Places mistakes in fields of the metadata in the part of an upload that has them."""
    try:
        yield
    except InvalidInput as error:
        # What is free in form, `metadata` as well, is placed in the part itself.
        fields = {*VersionMetadata.__struct_fields__} - {"metadata"}
        errors = [
            FieldError(f"metadata.{each.at}", each.detail) if each.at.partition(".")[0] in fields else each
            for each in error.errors
        ]
        if errors == list(error.errors):
            raise
        raise as_invalid_input(errors) from None


def _empty(spool: IO[bytes]) -> None:
    spool.seek(0)
    spool.truncate()


def _reference(request: web.Request) -> tuple[str, str]:
    return request.match_info["model"], request.match_info["version"]
