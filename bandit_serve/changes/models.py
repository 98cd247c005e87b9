"""Changes of models: registering, moving, rolling back, describing and pruning versions."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, BinaryIO, Literal

import msgspec
from msgspec import UNSET, UnsetType

from bandit_serve.base.names import NAME_PATTERN, is_name
from bandit_serve.changes.changes import Changes
from bandit_serve.errors import Conflict, FieldError, InvalidInput, NotFound, StoreUnavailable
from bandit_serve.folds.replica import Replica
from bandit_serve.models.artifact import Received
from bandit_serve.models.model_file import ModelFile, admit_model_file
from bandit_serve.models.onnx.signature import Signature, with_columns
from bandit_serve.registry.agreement import Agreement, AgreementReport, report
from bandit_serve.registry.catalogue import prunable
from bandit_serve.registry.registry import (
    REMOTE,
    ModelChanged,
    RegisteredModel,
    Registry,
    Version,
    VersionStatus,
    require_deployable,
)
from bandit_serve.replication.census import living
from bandit_serve.replication.tail import Tail
from bandit_serve.serving.loaded import LoadedModels
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store
from bandit_serve.upstreams.upstream import AllowedUpstreams, Upstream

# Checks of files take a thread each, and may take a process and minutes.
MAX_RECEIVED_AT_ONCE = 2


class ModelChanges:
    """Changes of the registry. Each returns the model or version as it is after the change.

    `who` and `reason` go into the history. Methods raise `NotFound`, `InvalidInput`, and `Conflict` where the present
    state does not allow the change.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        tail: Tail,
        changes: Changes,
        models: LoadedModels,
        upstreams: AllowedUpstreams,
    ) -> None:
        self._store = store
        self._replica = replica
        self._tail = tail
        self._changes = changes
        self._models = models
        self._upstreams = upstreams
        self._receiving = asyncio.Semaphore(MAX_RECEIVED_AT_ONCE)

    async def known(self) -> Registry:
        """Returns the registry, up to date with its log."""
        await self._tail.refresh(COMMON)
        return self._replica.registry

    async def register(
        self,
        model: str,
        source: BinaryIO | str | os.PathLike[str],
        who: str,
        *,
        version: str | None = None,
        status: VersionStatus = "staged",
        metrics: Mapping[str, float],
        metadata: Mapping[str, Any],
    ) -> Version:
        """Registers a model file as a version, called `v1`, `v2`, … unless `version` names it.

        Raises `InvalidArtifact`, `TooLarge` or `NotFound` for the file, and `DiskFull` where there is no room for it. A
        refused file leaves no copy behind.
        """
        require_name("model", model)
        if version is not None:
            require_name("version", version)
        now_ms = await self._store.time_ms()

        def decide(
            registry: Registry,
            sha256: str = "",
            size: int = 0,
            family: str = "",
            signature: Signature | UnsetType = UNSET,
        ) -> ModelChanged:
            return registry.register(
                Version(
                    model=model,
                    version=version or registry.next_version(model),
                    status=status,
                    sha256=sha256,
                    size=size,
                    family=family,
                    created_ms=now_ms,
                    updated_ms=now_ms,
                    metrics=dict(metrics),
                    metadata=dict(metadata),
                    signature=signature,
                ),
                who,
            )

        # Errors that do not depend on the file are raised before it is copied and read.
        decide(await self.known())
        artifacts = self._models.artifacts
        async with self._receiving:
            received = await asyncio.to_thread(artifacts.receive, source, check=partial(_findings, metadata))
        try:
            await asyncio.to_thread(artifacts.place, received)
            about = received.sha256, received.size, received.family, received.findings
            change = await self._changes.change_models(lambda registry: decide(registry, *about))
            assert change is not None
            # A refused upload of the same content may have withdrawn the file meanwhile.
            await asyncio.to_thread(artifacts.place, received)
        except StoreUnavailable:
            # Whether it was registered is unknown: the copy stays, and `sweep` decides later.
            raise
        except Exception:
            await self._withdraw(received)
            raise
        await asyncio.to_thread(artifacts.forget, received)
        return change.versions[0]

    async def register_remote(
        self,
        model: str,
        remote: Upstream,
        who: str,
        *,
        version: str | None = None,
        status: VersionStatus = "staged",
        metrics: Mapping[str, float],
        metadata: Mapping[str, Any],
    ) -> Version:
        """Registers a version that an upstream answers for; its name is as in `register`. Nothing is asked there."""
        require_name("model", model)
        if version is not None:
            require_name("version", version)
        remote = self._upstreams.checked(remote)
        now_ms = await self._store.time_ms()

        def decide(registry: Registry) -> ModelChanged:
            return registry.register(
                Version(
                    model=model,
                    version=version or registry.next_version(model),
                    status=status,
                    sha256="",
                    size=0,
                    family=REMOTE,
                    created_ms=now_ms,
                    updated_ms=now_ms,
                    metrics=dict(metrics),
                    metadata=dict(metadata),
                    remote=remote,
                ),
                who,
            )

        change = await self._changes.change_models(decide)
        assert change is not None
        return change.versions[0]

    async def _withdraw(self, received: Received) -> None:
        """Removes a received file unless a version has its content, which another upload may register meanwhile."""
        artifacts = self._models.artifacts
        if not await self._is_used(received.sha256):
            await asyncio.to_thread(artifacts.withdraw, received)
            if await self._is_used(received.sha256):
                await asyncio.to_thread(artifacts.place, received)
        await asyncio.to_thread(artifacts.forget, received)

    async def _is_used(self, sha256: str) -> bool:
        registry = await self.known()
        return any(
            version.sha256 == sha256 and not version.pruned
            for model in registry.models.values()
            for version in model.versions.values()
        )

    async def sweep(self) -> None:
        """Removes the files of uploads to this machine that were not finished within a day."""
        for received in await asyncio.to_thread(self._models.artifacts.left):
            await self._withdraw(received)

    async def set_status(
        self, model: str, version: str, status: VersionStatus, who: str, *, reason: str | None = None
    ) -> Version:
        """Moves a version to a status. One that goes into production is loaded first."""
        registry = await self.known()
        if status == "production":
            await self._models.load(registry.version(model, version))
        now_ms = await self._store.time_ms()
        await self._changes.change_models(
            lambda registry: registry.move(model, version, status, now_ms=now_ms, who=who, reason=reason)
        )
        return self._replica.registry.version(model, version)

    async def deploy(
        self,
        model: str,
        version: str,
        status: VersionStatus,
        who: str,
        *,
        remote: Upstream,
        reason: str,
        because: str,
    ) -> Version:
        """Lets a deployment serve a version, once per `because`, and moves it to `status`; a new one is registered.

        Requests go to `remote` where the settings allow that upstream; otherwise the version's file goes on to answer.
        Raises as `require_deployment`, and as `LoadedModels.load` where the upstream does not serve the version.
        """
        registry = await self.known()
        self.require_deployment(registry, model, version, status, remote)
        if registry.is_done(because):
            return registry.version(model, version)
        now_ms = await self._store.time_ms()
        allowed = self.routes_to(remote)

        def deployed(registry: Registry) -> Version:
            record = registry.models.get(model)
            known = None if record is None else record.versions.get(version)
            if known is None:
                known = Version(model, version, "staged", "", 0, REMOTE, created_ms=now_ms, updated_ms=now_ms)
            return msgspec.structs.replace(known, remote=remote) if allowed else known

        if allowed:
            candidate = msgspec.structs.replace(deployed(registry), status="staged")
            await self._models.try_out(candidate)
        elif status == "production":
            await self._models.load(deployed(registry))
        await self._changes.change_models(
            lambda registry: registry.deploy(
                deployed(registry), status, now_ms=now_ms, who=who, reason=reason, because=because
            )
        )
        return self._replica.registry.version(model, version)

    def routes_to(self, remote: Upstream) -> bool:
        """Whether the settings allow this upstream."""
        return self._upstreams.allow(remote.address)

    def require_deployment(
        self, registry: Registry, model: str, version: str, status: VersionStatus, remote: Upstream
    ) -> None:
        """Raises `Conflict` where a deployment can not serve the version, `InvalidInput` for a wrong name.

        A version that is not registered, or that an upstream answers for, needs an upstream that is allowed.
        """
        require_name("model", model)
        require_name("version", version)
        record = registry.models.get(model)
        known = None if record is None else record.versions.get(version)
        require_deployable(known, status)
        if (known is None or not known.sha256) and not self.routes_to(remote):
            raise Conflict(
                f"The version {version!r} of {model!r} has no file here, and the setting upstreams does not allow "
                f"{remote.url}, where it would be asked."
            )

    async def undeploy(
        self,
        model: str,
        version: str,
        status: Literal["retired", "failed"],
        who: str,
        *,
        reason: str,
        because: str,
    ) -> None:
        """Ends a version's deployment, once per `because`; see `Registry.undeploy`."""
        now_ms = await self._store.time_ms()
        await self._changes.change_models(
            lambda registry: registry.undeploy(
                model, version, status, now_ms=now_ms, who=who, reason=reason, because=because
            )
        )

    async def rollback(self, model: str, who: str, *, reason: str | None = None) -> RegisteredModel:
        """Puts the version that was in production before into production again."""
        now_ms = await self._store.time_ms()
        await self._changes.change_models(
            lambda registry: registry.rollback(model, now_ms=now_ms, who=who, reason=reason)
        )
        return self._replica.registry.model(model)

    async def prune(self, keep: int, who: str, *, dry_run: bool = False) -> list[Version]:
        """Removes the files of versions that nothing needs (`prunable`) and returns them. A dry run removes nothing."""
        if keep < 0:
            raise InvalidInput("keep must be 0 or more.")
        await self._tail.refresh_all()
        registry = await self.known()
        needed = {
            (arm.model, arm.version)
            for live in self._replica.experiments.values()
            for arm in live.experiment.arms
            if arm.model is not None
            and arm.version is not None
            and (live.record.status != "stopped" or live.record.winner == arm.name)
        }
        gone = prunable(registry.models, needed, keep)
        if dry_run:
            return gone
        now_ms = await self._store.time_ms()
        for model in dict.fromkeys(version.model for version in gone):
            names = [version.version for version in gone if version.model == model]
            gone_now = partial(Registry.prune, model=model, versions=names, now_ms=now_ms, who=who)
            await self._changes.change_models(gone_now)
        for sha256 in dict.fromkeys(version.sha256 for version in gone):
            with contextlib.suppress(NotFound):
                await asyncio.to_thread(self._models.artifacts.delete, sha256)
        return gone

    async def agreement(self, model: str, version: str) -> AgreementReport:
        """Reports how a shadow version's scores agreed with the answers that were given, over all workers."""
        (await self.known()).version(model, version)
        sums = Agreement()
        for state in await self._store.agreements(model, version):
            sums = sums.plus(msgspec.msgpack.decode(state, type=Agreement))
        return report(model, version, sums)

    async def loaded_by(self, model: str, version: str) -> list[str]:
        """Incarnations of the live workers that have a version in memory, in hexadecimal."""
        return (await self.loaded()).get((model, version), [])

    async def loaded(self) -> dict[tuple[str, str], list[str]]:
        """The same of all versions that any worker has in memory, by model and version."""
        living_ones = {worker.incarnation for worker in await living(self._store)}
        holders: dict[tuple[str, str], list[str]] = {}
        for incarnation, state in sorted((await self._store.loaded()).items()):
            if incarnation in living_ones:
                for model, version, _ in msgspec.msgpack.decode(state, type=list[tuple[str, str, int]]):
                    holders.setdefault((model, version), []).append(f"{incarnation:016x}")
        return holders

    async def patch(
        self, model: str, version: str, who: str, *, metrics: Mapping[str, float], metadata: Mapping[str, Any]
    ) -> Version:
        """Adds to a version's metrics and metadata; values under existing names are replaced."""
        now_ms = await self._store.time_ms()
        await self._changes.change_models(
            lambda registry: registry.patch(
                model, version, metrics=metrics, metadata=metadata, now_ms=now_ms, who=who
            )
        )
        return self._replica.registry.version(model, version)


def require_name(at: str, name: str) -> None:
    """Raises `InvalidInput` that names the field `at` unless `name` matches `NAME_PATTERN`."""
    if not is_name(name):
        detail = f"expected a name that matches {NAME_PATTERN}"
        raise InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])


def _findings(metadata: Mapping[str, Any], file: ModelFile) -> Signature | UnsetType:
    """Checks a file; returns the signature of an ONNX graph, with the names that `metadata` gives to its columns."""
    signature = admit_model_file(file)
    return UNSET if signature is None else with_columns(signature, metadata.get("features"))
