"""Routes of deployments. They are refused unless the setting `docker` names an engine."""

from __future__ import annotations

import asyncio
import math
from functools import cached_property
from typing import Annotated

from aiohttp import web
from msgspec import Meta

from bandit_serve.api.deployments import (
    BuildRequest,
    CanaryRequest,
    DeploymentList,
    DeploymentRequest,
    DeploymentView,
    StopDeploymentRequest,
)
from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.base.extras import require
from bandit_serve.deployments import image as images
from bandit_serve.deployments.bundle import require_file
from bandit_serve.deployments.canary import start_canary
from bandit_serve.deployments.deployments import Deployments
from bandit_serve.errors import FieldError, InvalidInput, NotInstalled, SwitchedOff
from bandit_serve.node import Node
from bandit_serve.server.page import count_of
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, actor, answer

DEFAULT_LINES, MAX_LINES = 200, 9_999
Lines = Annotated[int, Meta(ge=1, le=MAX_LINES)]
MAX_WAIT_MS = 600_000


class DeploymentHandlers:
    def __init__(self, service: Service) -> None:
        self._service = service
        timeout_s = service.settings.seconds("body_timeout")
        self._run = Body(DeploymentRequest, timeout_s=timeout_s)
        self._build = Body(BuildRequest, timeout_s=timeout_s)
        self._stop = Body(StopDeploymentRequest, timeout_s=timeout_s, optional=True)
        self._canary = Body(CanaryRequest, timeout_s=timeout_s)
        self._building = asyncio.Lock()

    @property
    def _address(self) -> str:
        address = self._service.settings.docker
        if address is None:
            raise SwitchedOff("Deployments are off here: the setting docker names no container engine.")
        try:
            require("docker", "docker")
        except NotInstalled as error:
            raise SwitchedOff(f"Deployments are off here. {error}") from None
        return address

    @cached_property
    def _deployments(self) -> Deployments:
        async def registry(data: str | None = None) -> Node:
            return self._service.node

        return Deployments(self._address, registry)

    async def list_all(self, request: web.Request) -> web.Response:
        return answer(request, DeploymentList(await self.known()))

    async def known(self) -> list[DeploymentView]:
        """All deployments. Raises `SwitchedOff` where the settings name no engine, `EngineAway` where it is away."""
        return await self._deployments.list_all()

    async def show(self, request: web.Request) -> web.Response:
        return answer(request, await self._deployments.status(_name(request)))

    async def logs(self, request: web.Request) -> web.Response:
        lines = count_of(request, "lines", MAX_LINES) or DEFAULT_LINES
        return answer(request, await self._deployments.logs(_name(request), lines))

    async def build(self, request: web.Request) -> web.Response:
        """Builds an image, one at a time; answers when it is there, after a minute or more."""
        asked = await self._build.read(request)
        if (asked.model is None) != (asked.version is None):
            raise _mistake("version", "expected model and version together, or neither")
        wanted = images.WantedImage(asked.tag, None, asked.base or images.BASE, asked.network)
        address, node, version = self._address, self._service.node, None
        if asked.model is not None and asked.version is not None:
            version = (await node.model_changes.known()).version(asked.model, asked.version)
            require_file(version)
        async with self._building:
            built = await asyncio.to_thread(images.build, address, wanted, version, node.artifacts)
        return answer(request, built, status=201)

    async def run(self, request: web.Request) -> web.Response:
        asked = await self._run.read(request)
        if parse_duration_ms(asked.wait) > MAX_WAIT_MS:
            raise _mistake("wait", "expected at most 10m")
        return answer(request, await self._deployments.run(asked, actor(request)), status=201)

    async def stop(self, request: web.Request) -> web.Response:
        timeout_ms = parse_duration_ms((await self._stop.read(request)).timeout)
        if timeout_ms > MAX_WAIT_MS:
            raise _mistake("timeout", "expected at most 10m")
        stopped = await self._deployments.stop(_name(request), math.ceil(timeout_ms / 1000), actor(request))
        return answer(request, stopped)

    async def canary(self, request: web.Request) -> web.Response:
        asked = await self._canary.read(request)
        return answer(request, await start_canary(self._service.node, asked, actor(request)), status=201)


def _name(request: web.Request) -> str:
    return request.match_info["deployment"]


def _mistake(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
