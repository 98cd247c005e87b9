"""Upstreams for tests: small model servers of aiohttp, each in a thread, that can be told to misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OUTPUTS = [
    {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
    {"name": "label", "datatype": "BYTES", "shape": [-1, 1]},
]
"""What its metadata say of a model that takes features."""


class Question(NamedTuple):
    """Request as the upstream got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class ThrowawayUpstream:
    """Model server in a `with` block. It speaks both protocols: `json` on `/predict`, Open Inference below `/v2`.

    `mode` is a name of one of the methods `_mode_…`, which answer every question; `inputs` and `outputs` are what its
    metadata say of the model's. In the mode `given` it answers `tensors`. `asked` has the questions so far, `answered`
    counts those that got their answer.
    """

    def __init__(
        self,
        value: float = 0.5,
        inputs: list[dict[str, Any]] | None = None,
        outputs: list[dict[str, Any]] | None = None,
    ) -> None:
        self.value = value
        self.inputs = inputs
        self.outputs = OUTPUTS if outputs is None else outputs
        self.tensors: list[dict[str, Any]] = []
        self.reset()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def reset(self) -> None:
        """Makes it well again, and forgets what it was asked."""
        self.mode = "good"
        self.delay_s = 0.0
        self.asked: list[Question] = []
        self.answered = 0
        self.readiness = 0

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        self._released = asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        self.port = server.sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._released.set)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Address of the protocol `json`."""
        return f"{self.base}/predict"

    @property
    def n_asked(self) -> int:
        """Number of questions, without those for readiness and metadata."""
        return sum(question.method == "POST" for question in self.asked)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        body = json.loads(content) if content else None
        self.asked.append(Question(request.method, request.path, dict(request.headers), body))
        if request.method == "GET":
            return await self._metadata(request)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        handler: Handler = getattr(self, f"_mode_{self.mode}")
        return await handler(request)

    async def _metadata(self, request: web.Request) -> web.Response:
        if request.path.endswith("/ready"):
            self.readiness += 1
            if self.mode == "hang":
                await self._released.wait()
            return web.Response(status={"unready": 503, "unknown": 400}.get(self.mode, 200))
        if self.mode == "deepest":
            return await self._mode_deepest(request)
        about = {"name": "m", "versions": ["1"], "platform": "test"}
        if self.inputs is not None:
            about |= {"inputs": self.inputs, "outputs": self.outputs}
        return web.json_response(about)

    async def _mode_good(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.answered += 1
        return web.json_response(self._infer(body) if "inputs" in body else self._predict(body))

    async def _mode_given(self, request: web.Request) -> web.Response:
        self.answered += 1
        return web.json_response({"outputs": self.tensors})

    def _predict(self, body: dict[str, Any]) -> dict[str, Any]:
        if "item_ids" in body:
            return {"predictions": [self.value + i for i in range(len(body["item_ids"]))], "more": 1}
        if "k" in body:
            excluded = body.get("exclude", [])
            items = [f"i{i}" for i in range(body["k"] + len(excluded))]
            names = [item for item in items if item not in excluded][: body["k"]]
            return {"items": [{"item_id": item, "score": self.value - i} for i, item in enumerate(names)]}
        if "item_id" not in body:
            return {"outputs": {"label": "yes", "probabilities": [self.value, 1.0 - self.value]}}
        return {"prediction": self.value}

    def _infer(self, body: dict[str, Any]) -> dict[str, Any]:
        k = body.get("parameters", {}).get("k")
        if k is not None:
            items = {
                "name": "item_id",
                "shape": [1, k],
                "datatype": "BYTES",
                "data": [f"i{i}" for i in range(k)],
            }
            scores = {
                "name": "score",
                "shape": [1, k],
                "datatype": "FP64",
                "data": [self.value - i for i in range(k)],
            }
            return {"model_name": "m", "outputs": [items, scores]}
        n = body["inputs"][0]["shape"][0]
        if any(tensor["name"] == "item_id" for tensor in body["inputs"]):
            data = [self.value + i for i in range(n)]
            return {"outputs": [{"name": "prediction", "shape": [n], "datatype": "FP64", "data": data}]}
        data = [[self.value, 1.0 - self.value]] * n
        label = {"name": "label", "shape": [n, 1], "datatype": "BYTES", "data": ["yes"] * n}
        return {
            "outputs": [{"name": "probabilities", "shape": [n, 2], "datatype": "FP32", "data": data}, label]
        }

    async def _status(self, status: int) -> web.Response:
        return web.json_response({"error": "a secret of the upstream"}, status=status)

    async def _mode_500(self, request: web.Request) -> web.Response:
        return await self._status(500)

    async def _mode_503(self, request: web.Request) -> web.Response:
        return await self._status(503)

    async def _mode_401(self, request: web.Request) -> web.Response:
        return await self._status(401)

    async def _mode_404(self, request: web.Request) -> web.Response:
        return await self._status(404)

    async def _mode_429(self, request: web.Request) -> web.Response:
        return await self._status(429)

    async def _mode_400(self, request: web.Request) -> web.Response:
        return await self._status(400)

    async def _mode_413(self, request: web.Request) -> web.Response:
        return await self._status(413)

    async def _mode_422(self, request: web.Request) -> web.Response:
        return await self._status(422)

    async def _mode_204(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _mode_hang(self, request: web.Request) -> web.Response:
        await self._released.wait()
        return web.Response()

    async def _mode_headers_then_hang(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"prediction": ')
        await self._released.wait()
        return response

    async def _mode_drip(self, request: web.Request) -> web.StreamResponse:
        """A byte at a time, for ever: no single read takes long."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while not self._released.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.01)
        return response

    async def _mode_reset(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"prediction": 1')
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _mode_closed(self, request: web.Request) -> web.Response:
        """The connection ends before anything is answered."""
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _mode_huge(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(64):
            await response.write(b" " * 65_536)
        await response.write(b'{"prediction": 1.0}')
        return response

    async def _mode_announced_huge(self, request: web.Request) -> web.Response:
        return web.Response(body=b'{"prediction": 1.0}' + b" " * 2**22, content_type="application/json")

    async def _mode_bomb(self, request: web.Request) -> web.Response:
        response = web.Response(body=b'{"prediction": 1.0}' + b" " * 2**22, content_type="application/json")
        response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _mode_redirect(self, request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{self.base}/elsewhere"})

    async def _text(self, text: str) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    async def _mode_text(self, request: web.Request) -> web.Response:
        return await self._text("it is 0.5, I think")

    async def _mode_empty(self, request: web.Request) -> web.Response:
        return await self._text("")

    async def _mode_list(self, request: web.Request) -> web.Response:
        return await self._text("[0.5]")

    async def _mode_nothing(self, request: web.Request) -> web.Response:
        return await self._text("{}")

    async def _mode_nan(self, request: web.Request) -> web.Response:
        return await self._text('{"prediction": NaN}')

    async def _mode_infinite(self, request: web.Request) -> web.Response:
        return await self._text('{"prediction": 1e999}')

    async def _mode_quoted(self, request: web.Request) -> web.Response:
        return await self._text('{"prediction": "0.5"}')

    async def _mode_many(self, request: web.Request) -> web.Response:
        """A shape that no question of these tests has."""
        return await self._text('{"predictions": [1.0, 2.0, 3.0, 4.0, 5.0]}')

    async def _mode_deep(self, request: web.Request) -> web.Response:
        return await self._text('{"outputs": {"x": ' + "[" * 500 + "]" * 500 + "}}")

    async def _mode_deepest(self, request: web.Request) -> web.Response:
        return await self._text('{"outputs": {"x": ' + "[" * 200_000 + "]" * 200_000 + "}}")

    async def _mode_deep_aside(self, request: web.Request) -> web.Response:
        """The depth is in a field that nobody reads."""
        return await self._text('{"more": ' + "[" * 200_000 + "]" * 200_000 + ', "prediction": 0.5}')

    async def _mode_beyond_float(self, request: web.Request) -> web.Response:
        """An integer that no float64 holds, in a tensor that says it is one."""
        tensor = '{"name": "prediction", "shape": [1], "datatype": "FP64", "data": [' + "9" * 400 + "]}"
        return await self._text(f'{{"outputs": [{tensor}]}}')

    async def _mode_crowded(self, request: web.Request) -> web.Response:
        """As many values as fit into an answer, and lists of nothing."""
        return await self._text('{"outputs": {"x": [' + "[]," * 300_000 + "1]}}")

    async def _mode_nested(self, request: web.Request) -> web.Response:
        return await self._text('{"outputs": {"x": {"y": 1}}}')

    async def _mode_endless_integer(self, request: web.Request) -> web.Response:
        return await self._text('{"outputs": {"x": ' + "9" * 60 + "}}")


FAILING = [
    "500",
    "503",
    "401",
    "404",
    "429",
    "204",
    "hang",
    "headers_then_hang",
    "drip",
    "reset",
    "closed",
    "huge",
    "announced_huge",
    "bomb",
    "redirect",
    "text",
    "empty",
    "list",
    "nothing",
    "nan",
    "infinite",
    "quoted",
    "many",
    "deep",
    "deepest",
    "deep_aside",
    "beyond_float",
    "crowded",
    "nested",
    "endless_integer",
]
"""Modes in which an upstream fails, whatever is asked."""
