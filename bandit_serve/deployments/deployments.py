"""Deployments: containers of the service, with names, and the versions that they serve.

A start has three parts: a container that becomes ready, the registry's event, and the container's own name. Each part
is whole or not at all, and until the last one the container's name says which process is at work (`under_way.py`). So
a command that finds the work of a process that has died knows what to do with it (`settle`): with the registry's event
the start is brought to its end, without it the container goes. A stop is always brought to its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from bandit_serve.api.deployments import (
    DeploymentLogs,
    DeploymentRequest,
    DeploymentView,
    Environment,
    Serving,
)
from bandit_serve.base.secrets import shown_url
from bandit_serve.deployments import container as containers
from bandit_serve.deployments.container import (
    DATA,
    ENVIRONMENT,
    LABEL,
    MODEL,
    REGISTRY,
    URL,
    VERSION,
    Volume,
    view,
)
from bandit_serve.deployments.engine import engine_at, is_local
from bandit_serve.deployments.image import collect, image_for
from bandit_serve.deployments.under_way import is_abandoned, name_during, under_way
from bandit_serve.errors import (
    BanditServeError,
    Conflict,
    DeploymentFailed,
    ModelLost,
    UpstreamFailed,
    in_full,
)
from bandit_serve.node import Node
from bandit_serve.registry.registry import Version, VersionStatus
from bandit_serve.upstreams.upstream import Upstream

STATUSES: dict[Environment, VersionStatus] = {
    "staging": "staged",
    "production": "production",
    "shadow": "shadow",
}
UPSTREAM_TIMEOUT = "1s"
MAX_REASON_CHARS = 1_000
MAX_THREADS = 4
TRIES, TRY_AGAIN_S = 5, 1.0
WHO = "deploy"
"""Who ends what others had begun, in the history."""

T = TypeVar("T")


class OpensRegistry(Protocol):
    """Way to the registry. `data` is the data directory that a deployment was started with, where none is named now."""

    def __call__(self, data: str | None = None) -> Awaitable[Node]: ...


class _Begun(NamedTuple):
    """Deployment of a version that has begun: the name of its container, and what it is known by."""

    container_id: str
    url: str


class _About(NamedTuple):
    """What a container says of its deployment."""

    id: str
    name: str
    serving: Serving | None
    data: str | None = None
    registry: str = ""
    work: str = ""

    @classmethod
    def of(cls, found: Any) -> _About:
        labels = found.labels
        serving = None
        if MODEL in labels:
            serving = Serving(labels[MODEL], labels[VERSION], labels[ENVIRONMENT])
        doing = under_way(labels[LABEL], found.name)
        work = "" if doing is None else doing.work
        return cls(found.id, labels[LABEL], serving, labels.get(DATA), labels.get(REGISTRY, ""), work)


class Deployments:
    """Deployments of one engine. Calls of the engine are made in threads; only one change is made at a time.

    `data` is remembered at the containers, for a later command; `who` is for the registry's history. Methods raise
    `EngineAway`, `EngineRefused`, and the errors of the registry where a version is served.
    """

    def __init__(self, address: str, open_registry: OpensRegistry, *, data: str | None = None) -> None:
        self._address = address
        self._open_registry = open_registry
        self._data = data
        self._changing = asyncio.Lock()
        # An engine that hangs takes no thread from anybody else.
        self._threads = ThreadPoolExecutor(MAX_THREADS, "engine")

    async def run(
        self, request: DeploymentRequest, who: str, volumes: tuple[Volume, ...] = ()
    ) -> DeploymentView:
        """Starts a deployment; returns when it is ready and its version has its status.

        Raises `Conflict` where the name or the port is taken, `NotFound` for the image, and `DeploymentFailed` where it
        does not become ready. Then nothing of it is left, but that the version is `failed`.
        """
        containers.variables(request)  # refuses a wrong host
        if request.memory is not None:
            containers.memory_bytes(request.memory)
        async with self._changing:
            await self._settle()
            node, version = await self._version_of(request)
            begun = await self._engine(self._begin, request, volumes, node, version)
            try:
                await self._engine(self._start, begun, request)
                if request.serving is not None:
                    assert node is not None
                    await self._deploy(node, begun, request, who)
                return await self._engine(self._finish, begun)
            except BaseException as error:
                await self._undo(begun, request, node, who, error)
                raise

    async def status(self, name: str) -> DeploymentView:
        """Status of a deployment, `ready` included; raises `NotFound`."""
        await self._settle_if_possible()

        def look(client: Any) -> DeploymentView:
            found = containers.one(client, name)
            local = is_local(self._address)
            return view(found, ready=containers.is_ready(found.labels[URL]) if local else None)

        return await self._engine(look)

    async def list_all(self) -> list[DeploymentView]:
        """Deployments of the engine, by name."""
        await self._settle_if_possible()
        return await self._engine(lambda client: [view(each) for each in containers.ours(client)])

    async def logs(self, name: str, n_lines: int) -> DeploymentLogs:
        """Last lines that a deployment has printed; raises `NotFound`."""
        await self._settle_if_possible()
        return await self._engine(
            lambda client: DeploymentLogs(containers.last_lines(containers.one(client, name), n_lines))
        )

    async def stop(self, name: str, timeout_s: int, who: str) -> DeploymentView:
        """Stops a deployment and removes it; its version is retired first, so that nothing is sent there any more."""
        async with self._changing:
            await self._settle(besides=name)
            found = await self._engine(lambda client: _About.of(containers.one(client, name)))
            return await self._stop(found, timeout_s, who)

    async def _stop(self, about: _About, timeout_s: int, who: str) -> DeploymentView:
        if about.serving is not None:
            node = await self._registry_of(about)
            await self._engine(_mark_stopping, about)
            await _retire(node, about, who)

        def end(client: Any) -> DeploymentView:
            found = _mark_stopping(client, about)
            exit_code = containers.stop(found, timeout_s)
            last = msgspec.structs.replace(view(found), status="removed", health="none", exit_code=exit_code)
            containers.remove(found)
            collect(client)
            return last

        return await self._engine(end)

    async def _version_of(self, request: DeploymentRequest) -> tuple[Node | None, Version | None]:
        """The registry and the version to be served, if one is, where it may be."""
        serving = request.serving
        if serving is None:
            return None, None
        node = await self._open_registry()
        registry = await node.model_changes.known()
        status = STATUSES[serving.environment]
        remote = self._upstream(containers.url_of(request.host, request.port), serving.model)
        node.model_changes.require_deployment(registry, serving.model, serving.version, status, remote)
        model = registry.models.get(serving.model)
        return node, None if model is None else model.versions.get(serving.version)

    def _begin(
        self,
        client: Any,
        request: DeploymentRequest,
        volumes: tuple[Volume, ...],
        node: Node | None,
        version: Version | None,
    ) -> _Begun:
        serving = request.serving
        if containers.ours(client, request.name):
            raise Conflict(f"There is a deployment {request.name!r} already; stop it first.")
        if client.containers.list(all=True, filters={"name": f"^/?{re.escape(request.name)}$"}, sparse=True):
            raise Conflict(
                f"The engine has a container {request.name!r} that is no deployment; choose another name."
            )
        labels = {} if self._data is None else {DATA: self._data}
        if serving is not None:
            assert node is not None
            labels |= {
                MODEL: serving.model,
                VERSION: serving.version,
                ENVIRONMENT: serving.environment,
                REGISTRY: _identity(node),
            }
            one = [labels[each] for each in (REGISTRY, MODEL, VERSION)]
            for each in containers.ours(client):
                if one == [each.labels.get(label) for label in (REGISTRY, MODEL, VERSION)]:
                    raise Conflict(
                        f"{serving.model} {serving.version} is served by the deployment {each.labels[LABEL]} already."
                    )
        in_file = version if version is not None and version.sha256 else None
        image = image_for(client, request.tag, in_file, None if node is None else node.artifacts)
        made = containers.create(client, image, request, volumes, labels)
        return _Begun(made.id, made.labels[URL])

    def _start(self, client: Any, begun: _Begun, request: DeploymentRequest) -> None:
        made = client.containers.get(begun.container_id)
        containers.start(made, request)
        containers.wait_until_ready(made, request, local=is_local(self._address))
        serving = request.serving
        if serving is not None and is_local(self._address):
            path = f"/v2/models/{serving.model}/versions/{serving.version}/ready"
            if not containers.is_ready(begun.url, path):
                raise DeploymentFailed(
                    f"{request.name} runs, but does not serve {serving.model} {serving.version}."
                )

    async def _deploy(self, node: Node, begun: _Begun, request: DeploymentRequest, who: str) -> None:
        serving = request.serving
        assert serving is not None
        for left in reversed(range(TRIES)):
            try:
                await self._registered(node, begun, request, who, serving)
                return
            except (ModelLost, UpstreamFailed):
                # A service that has just started may be slow at first.
                if not left:
                    raise
                await asyncio.sleep(TRY_AGAIN_S)

    async def _registered(
        self, node: Node, begun: _Begun, request: DeploymentRequest, who: str, serving: Serving
    ) -> None:
        await node.model_changes.deploy(
            serving.model,
            serving.version,
            STATUSES[serving.environment],
            who,
            remote=self._upstream(begun.url, serving.model),
            reason=f"The deployment {request.name} serves it.",
            because=_deployed(begun.container_id),
        )

    def _finish(self, client: Any, begun: _Begun) -> DeploymentView:
        made = client.containers.get(begun.container_id)
        containers.finish(made)
        made.reload()
        return view(made, ready=True)

    async def _undo(
        self, begun: _Begun, request: DeploymentRequest, node: Node | None, who: str, error: BaseException
    ) -> None:
        """Removes what a start has made; its version has failed where its container did not become ready.

        A version that is in the registry as deployed is retired, as by a stop.
        """
        serving = request.serving
        if serving is not None and node is not None:
            registry = await node.model_changes.known()
            if registry.is_done(_deployed(begun.container_id)):
                await _retire(node, _About(begun.container_id, request.name, serving), who)
            elif isinstance(error, DeploymentFailed) and not _takes_traffic(node, serving):
                await node.model_changes.undeploy(
                    serving.model,
                    serving.version,
                    "failed",
                    who,
                    reason=f"Not deployed: {in_full(error)}"[:MAX_REASON_CHARS],
                    because=f"failed:{begun.container_id}",
                )

        def clean(client: Any) -> None:
            for each in client.containers.list(all=True, filters={"id": begun.container_id}):
                containers.remove(each)
            collect(client)

        await self._engine(clean)

    async def _settle_if_possible(self) -> None:
        """Settles what needs no registry, or one that is at hand."""
        if not self._changing.locked():
            async with self._changing:
                await self._settle()

    async def _settle(self, besides: str | None = None) -> None:
        """Brings to its end, or undoes, what processes that have died had begun.

        What needs a registry that can not be reached now stays, and is listed as unfinished; so does the deployment
        `besides`, which is stopped anyhow.
        """
        for about in await self._engine(_abandoned):
            if about.name != besides:
                try:
                    await self._settle_one(about)
                except BanditServeError:
                    if about.serving is None:
                        raise

    async def _settle_one(self, about: _About) -> None:
        if about.work == "stopping":
            node = None if about.serving is None else await self._registry_of(about)
            if node is not None:
                await _retire(node, about, WHO)
            await self._engine(lambda client: containers.remove(client.containers.get(about.id)))
            return
        if about.serving is not None:
            node = await self._registry_of(about)
            if (await node.model_changes.known()).is_done(_deployed(about.id)):
                await self._engine(lambda client: containers.finish(client.containers.get(about.id)))
                return
        await self._engine(lambda client: containers.remove(client.containers.get(about.id)))
        await self._engine(collect)

    async def _registry_of(self, about: _About) -> Node:
        """The registry that a deployment was started with; raises `Conflict` where the one that is named is another."""
        node = await self._open_registry(about.data)
        if about.registry != _identity(node):
            raise Conflict(
                f"The deployment {about.name} was started with another registry: name its --store or --data."
            )
        return node

    def _upstream(self, url: str, model: str) -> Upstream:
        return Upstream(url, "open-inference", model, UPSTREAM_TIMEOUT)

    async def _engine(self, work: Callable[..., T], *arguments: Any) -> T:
        def call() -> T:
            with engine_at(self._address) as client:
                return work(client, *arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


async def _retire(node: Node, about: _About, who: str) -> None:
    assert about.serving is not None
    await node.model_changes.undeploy(
        about.serving.model,
        about.serving.version,
        "retired",
        who,
        reason=f"The deployment {about.name} was stopped.",
        because=f"undeploy:{about.id}",
    )


def _mark_stopping(client: Any, about: _About) -> Any:
    found = client.containers.get(about.id)
    during = name_during(about.name, "stopping")
    if found.name != during:
        found.rename(during)
    return found


def _abandoned(client: Any) -> list[_About]:
    left = []
    for each in containers.ours(client):
        doing = under_way(each.labels[LABEL], each.name)
        if doing is not None and is_abandoned(doing.process):
            left.append(_About.of(each))
    return left


def _identity(node: Node) -> str:
    """Digest of where a registry is."""
    return hashlib.sha256(f"{shown_url(node.store.url)} {node.settings.namespace}".encode()).hexdigest()[:16]


def _deployed(container_id: str) -> str:
    return f"deploy:{container_id}"


def _takes_traffic(node: Node, serving: Serving) -> bool:
    """Whether requests go to a version, which then is not taken from them."""
    registry = node.replica.registry
    if registry.version(serving.model, serving.version).status in ("production", "shadow"):
        return True
    return any(
        (arm.model, arm.version) == (serving.model, serving.version)
        for record in node.replica.records().values()
        if record.status in ("running", "paused")
        for arm in record.experiment.arms
    )
