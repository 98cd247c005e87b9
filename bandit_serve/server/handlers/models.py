"""The registry: versions in, statuses moved, history out."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Annotated, Any, NamedTuple

import msgspec
from aiohttp import BodyPartReader, web
from msgspec import Meta, Struct

from bandit_serve.errors import FieldError, InvalidInput, TooLarge, UnsupportedMedia
from bandit_serve.models.family import load_model
from bandit_serve.models.registry import RegisteredModel, Registry, Version, VersionStatus
from bandit_serve.names import NAME_PATTERN, Name, is_name
from bandit_serve.server.service import Service
from bandit_serve.server.times import rfc3339
from bandit_serve.server.wire import Body, actor, answer
from bandit_serve.store.keys import COMMON

MAX_METADATA_BYTES = 65_536
CHUNK_BYTES = 2**20


class VersionMetadata(Struct, frozen=True, forbid_unknown_fields=True):
    """What comes with an artifact. `version` is `v1`, `v2`, … unless it is given."""

    version: Name | None = None
    status: VersionStatus = "staged"
    metrics: dict[str, float] = {}
    metadata: dict[str, Any] = {}


class Upload(Struct, frozen=True):
    """The parts of a registration, in any order."""

    artifact: Annotated[
        bytes, Meta(description="a safetensors file", extra_json_schema={"contentEncoding": "binary"})
    ]
    metadata: VersionMetadata = VersionMetadata()


class StatusRequest(Struct, frozen=True, forbid_unknown_fields=True):
    status: VersionStatus
    reason: Annotated[str, Meta(max_length=1_000)] | None = None


class RollbackRequest(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(max_length=1_000)] | None = None


class PatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    metrics: dict[str, float] = {}
    metadata: dict[str, Any] = {}


class VersionView(Struct, frozen=True):
    model: str
    version: str
    status: VersionStatus
    family: str
    sha256: str
    size: int
    created_at: str
    updated_at: str
    metrics: dict[str, float]
    metadata: dict[str, Any]
    reason: str | None


class ModelHistoryView(Struct, frozen=True):
    at: str
    who: str
    what: str
    version: str
    status: VersionStatus
    reason: str | None


class ModelView(Struct, frozen=True):
    model: str
    production: str | None
    versions: list[VersionView]
    history: list[ModelHistoryView]


class ModelSummary(Struct, frozen=True):
    model: str
    production: str | None
    versions: list[str]


class ModelList(Struct, frozen=True):
    models: list[ModelSummary]


class StoredArtifact(NamedTuple):
    sha256: str
    size: int
    family: str


class Loaded(Struct, frozen=True):
    model: str
    version: str
    loaded: bool


def version_view(version: Version) -> VersionView:
    return VersionView(
        model=version.model,
        version=version.version,
        status=version.status,
        family=version.family,
        sha256=version.sha256,
        size=version.size,
        created_at=rfc3339(version.created_ms),
        updated_at=rfc3339(version.updated_ms),
        metrics=version.metrics,
        metadata=version.metadata,
        reason=version.reason,
    )


def model_view(model: RegisteredModel) -> ModelView:
    return ModelView(
        model=model.name,
        production=model.production,
        versions=[version_view(version) for version in model.versions.values()],
        history=[
            ModelHistoryView(rfc3339(e.at_ms), e.who, e.what, e.version, e.status, e.reason)
            for e in model.history
        ],
    )


class ModelHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._timeout_s = timeout_s = service.settings.seconds("body_timeout")
        self._status = Body(StatusRequest, timeout_s=timeout_s)
        self._rollback = Body(RollbackRequest, timeout_s=timeout_s, optional=True)
        self._patch = Body(PatchRequest, timeout_s=timeout_s)

    async def list_all(self, request: web.Request) -> web.Response:
        registry = await self._registry()
        models = [
            ModelSummary(name, model.production, list(model.versions))
            for name, model in sorted(registry.models.items())
        ]
        return answer(request, ModelList(models))

    async def show(self, request: web.Request) -> web.Response:
        registry = await self._registry()
        return answer(request, model_view(registry.model(request.match_info["model"])))

    async def show_version(self, request: web.Request) -> web.Response:
        registry = await self._registry()
        found = registry.version(request.match_info["model"], request.match_info["version"])
        return answer(request, version_view(found))

    async def register(self, request: web.Request) -> web.Response:
        """Takes the artifact in, checks that it is a model, and only then registers it."""
        model = request.match_info["model"]
        if not is_name(model):
            detail = f"expected a name that matches {NAME_PATTERN}"
            raise InvalidInput(f"model: {detail}.", [FieldError("model", detail)])
        metadata, stored = await self._read_upload(request)
        now_ms = await self._service.store.time_ms()

        def decide(registry: Registry) -> Any:
            version = Version(
                model=model,
                version=metadata.version or registry.next_version(model),
                status=metadata.status,
                sha256=stored.sha256,
                size=stored.size,
                family=stored.family,
                created_ms=now_ms,
                updated_ms=now_ms,
                metrics=metadata.metrics,
                metadata=metadata.metadata,
            )
            return registry.register(version, actor(request))

        change = await self._service.changes.models(decide)
        assert change is not None
        return answer(request, version_view(change.versions[0]), status=201)

    async def set_status(self, request: web.Request) -> web.Response:
        wish = await self._status.read(request)
        model, version = request.match_info["model"], request.match_info["version"]
        registry = await self._registry()
        if wish.status == "production":
            await self._service.models.load(registry.version(model, version))
        now_ms = await self._service.store.time_ms()
        await self._service.changes.models(
            lambda registry: registry.move(
                model, version, wish.status, now_ms=now_ms, who=actor(request), reason=wish.reason
            )
        )
        return self._version(request)

    async def rollback(self, request: web.Request) -> web.Response:
        wish = await self._rollback.read(request)
        model = request.match_info["model"]
        now_ms = await self._service.store.time_ms()
        await self._service.changes.models(
            lambda registry: registry.rollback(model, now_ms=now_ms, who=actor(request), reason=wish.reason)
        )
        return answer(request, model_view(self._service.replica.registry.model(model)))

    async def patch(self, request: web.Request) -> web.Response:
        wish = await self._patch.read(request)
        model, version = request.match_info["model"], request.match_info["version"]
        now_ms = await self._service.store.time_ms()
        await self._service.changes.models(
            lambda registry: registry.patch(
                model,
                version,
                metrics=wish.metrics,
                metadata=wish.metadata,
                now_ms=now_ms,
                who=actor(request),
            )
        )
        return self._version(request)

    async def load(self, request: web.Request) -> web.Response:
        registry = await self._registry()
        found = registry.version(request.match_info["model"], request.match_info["version"])
        await self._service.models.load(found)
        return answer(request, Loaded(found.model, found.version, True))

    async def _registry(self) -> Registry:
        await self._service.tail.hear_news(COMMON)
        return self._service.replica.registry

    def _version(self, request: web.Request) -> web.Response:
        found = self._service.replica.registry.version(
            request.match_info["model"], request.match_info["version"]
        )
        return answer(request, version_view(found))

    async def _read_upload(self, request: web.Request) -> tuple[VersionMetadata, StoredArtifact]:
        """The parts `metadata` and `artifact`, in any order; the artifact goes to disk as it comes."""
        if not request.content_type.startswith("multipart/"):
            raise UnsupportedMedia("Expected multipart/form-data with the parts metadata and artifact.")
        metadata = VersionMetadata()
        stored: StoredArtifact | None = None
        try:
            reader = await request.multipart()
            while (part := await asyncio.wait_for(reader.next(), self._timeout_s)) is not None:
                if not isinstance(part, BodyPartReader):
                    raise InvalidInput("The upload has a part inside a part: expected metadata and artifact.")
                if part.name == "metadata":
                    metadata = await self._read_metadata(part)
                elif part.name == "artifact":
                    stored = await self._store(part)
                else:
                    raise InvalidInput(
                        f"The upload has a part {part.name!r}: expected metadata and artifact."
                    )
        except (ValueError, RuntimeError) as error:
            raise InvalidInput(f"The upload is not well-formed multipart: {error}.") from None
        if stored is None:
            detail = "expected a part artifact with a safetensors file"
            raise InvalidInput(f"artifact: {detail}.", [FieldError("artifact", detail)])
        return metadata, stored

    async def _read_metadata(self, part: BodyPartReader) -> VersionMetadata:
        content = bytearray()
        while chunk := await asyncio.wait_for(part.read_chunk(), self._timeout_s):
            content += chunk
            if len(content) > MAX_METADATA_BYTES:
                raise InvalidInput(f"metadata: expected at most {MAX_METADATA_BYTES} bytes.")
        try:
            return msgspec.json.decode(bytes(content), type=VersionMetadata)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"metadata: {error}.", [FieldError("metadata", str(error))]) from None

    async def _store(self, part: BodyPartReader) -> StoredArtifact:
        """Checked as a model before it gets its name."""
        artifacts = self._service.artifacts
        families: list[str] = []
        with tempfile.TemporaryFile(dir=artifacts.root) as spool:
            size = 0
            while chunk := await asyncio.wait_for(part.read_chunk(CHUNK_BYTES), self._timeout_s):
                size += len(chunk)
                if size > artifacts.max_bytes:
                    raise TooLarge(f"The artifact is larger than {artifacts.max_bytes} bytes.")
                await asyncio.to_thread(spool.write, chunk)
            spool.seek(0)
            sha256, size = await asyncio.to_thread(
                artifacts.put, spool, check=lambda artifact: families.append(load_model(artifact).family)
            )
        return StoredArtifact(sha256, size, families[0])
