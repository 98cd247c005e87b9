"""Middleware: one decision a request and experiment, rewards after the answer, defaults while the service is away."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
import wsgiref.simple_server
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from bandit_serve_client import Client, Default, OutboxSettings, SyncClient
from bandit_serve_client.middleware import decisions, sync_decisions
from bandit_serve_client.middleware.aiohttp import aiohttp_middleware
from bandit_serve_client.middleware.asgi import ASGIMiddleware, Message, Receive, Scope, Send
from bandit_serve_client.middleware.wsgi import WSGIMiddleware
from scripted_server import HANG, Received, Script, ScriptedServer, answer
from services import ThrowawayService
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

BLUE = Default("blue", {"colour": "#00f"})
EXPERIMENT = {
    "id": "button",
    "unit": "user",
    "arms": [
        {"name": "blue", "payload": {"colour": "#00f"}},
        {"name": "green", "payload": {"colour": "#0a0"}},
    ],
    "metrics": [{"name": "click", "kind": "binary"}],
    "attribution": {"missing": "ignore"},
    "policy": {"kind": "fixed_split"},
}
LATER = OutboxSettings(flush_every=3600.0)


def service_script(request: Received, _: int) -> Script:
    """Decides for the arm that the unit is named after, and counts every reward."""
    body = json.loads(request.body)
    if "rewards" in body:
        n = len(body["rewards"])
        report = {"accepted": n, "duplicates": 0, "rejected": 0, "verdicts": ["accepted"] * n}
        return answer(json.dumps(report).encode())
    arm = body.get("unit", "none")
    experiment = request.line.split("/")[3]
    decision = {"decision_id": f"{experiment}-{arm}", "experiment": experiment, "arm": arm}
    return answer(json.dumps({**decision, "propensity": 0.5, "model": None, "payload": None}).encode())


def rewarded(server: ScriptedServer) -> list[str]:
    bodies = [json.loads(request.body) for request in server.received if "/rewards" in request.line]
    return [reward["decision_id"] for body in bodies for reward in body["rewards"]]


def decided(server: ScriptedServer) -> list[str]:
    return [request.line.split("/")[3] for request in server.received if "/decide" in request.line]


def unit_of_scope(scope: Scope) -> str:
    return dict(scope["headers"])[b"x-user"].decode()


class Sent:
    """What an ASGI application sent, and the queued rewards as it did."""

    def __init__(self, client: Client) -> None:
        self.messages: list[Message] = []
        self.queued: list[int] = []
        self._client = client

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)
        self.queued.append(self._client.n_queued)

    @property
    def content(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


async def nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def scope_of(user: str) -> Scope:
    return {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-user", user.encode())]}


async def respond(send: Send, content: str) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": content.encode()})


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Asks twice for one decision, once in a task of its own, and rewards it before it answers."""
    first = await decisions().decide("button", default=BLUE)
    again = await asyncio.create_task(helper())
    assert again is first
    assert first.reward(1.0)
    await respond(send, first.arm)


async def helper() -> Any:
    return await decisions().decide("button", default=BLUE)


def test_a_request_has_one_decision_and_its_rewards_come_after_the_answer() -> None:
    async def play(server: ScriptedServer) -> None:
        async with Client(server.url, outbox=LATER) as client:
            app = ASGIMiddleware(page, client, unit=unit_of_scope)
            sent = Sent(client)
            await app(scope_of("green"), nothing, sent)
            assert sent.content == b"green"
            assert sent.queued == [0, 0]
            assert client.n_queued == 1
            with pytest.raises(LookupError):
                decisions()

    with ScriptedServer(service_script) as server:
        asyncio.run(play(server))
        assert decided(server) == ["button"]
        assert rewarded(server) == ["button-green"]


def test_requests_at_once_do_not_see_each_other() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        (await decisions().decide("button", default=BLUE)).reward(1.0)
        await asyncio.sleep(0.01)
        await respond(send, (await decisions().decide("button", default=BLUE)).arm)

    async def play(server: ScriptedServer) -> None:
        async with Client(server.url, outbox=LATER) as client:
            around = ASGIMiddleware(app, client, unit=unit_of_scope, timeout=20.0)
            sents = [Sent(client) for _ in range(30)]
            await asyncio.gather(
                *[around(scope_of(f"arm{n}"), nothing, sent) for n, sent in enumerate(sents)]
            )
            assert [sent.content.decode() for sent in sents] == [f"arm{n}" for n in range(30)]

    with ScriptedServer(service_script) as server:
        asyncio.run(play(server))
        assert len(decided(server)) == 30
        assert sorted(rewarded(server)) == sorted(f"button-arm{n}" for n in range(30))


def test_frameworks_carry_it_into_their_handlers() -> None:
    """Starlette runs the handler in a task of its own where another middleware of its kind is in between."""

    async def show(request: StarletteRequest) -> PlainTextResponse:
        decision = await decisions().decide("button", default=BLUE)
        decision.reward(1.0)
        return PlainTextResponse(decision.arm)

    async def play(server: ScriptedServer) -> None:
        async with Client(server.url, outbox=LATER) as client:
            app = Starlette(routes=[Route("/", show)])
            app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
            app.add_middleware(ASGIMiddleware, client=client, unit=unit_of_scope)
            sent = Sent(client)
            scope = {**scope_of("green"), "query_string": b"", "server": ("h", 1), "http_version": "1.1"}
            await app(scope, nothing, sent)
            assert sent.content == b"green"
            assert max(sent.queued) == 0
            assert client.n_queued == 1

    with ScriptedServer(service_script) as server:
        asyncio.run(play(server))


def test_a_request_that_decides_nothing_asks_nothing() -> None:
    """Neither the service nor for the unit, which may be costly to know."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, "plain")

    async def play(server: ScriptedServer) -> None:
        async with Client(server.url) as client:

            def unit(scope: Scope) -> str:
                raise AssertionError

            await ASGIMiddleware(app, client, unit=unit)(scope_of("green"), nothing, Sent(client))

    with ScriptedServer(service_script) as server:
        asyncio.run(play(server))
        assert server.received == []


def test_two_experiments_are_two_decisions() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        arms = await asyncio.gather(
            *[decisions().decide(name, default=BLUE) for name in ("button", "title", "button")]
        )
        for decision in arms:
            decision.reward(1.0)
        await respond(send, "")

    async def play(server: ScriptedServer) -> None:
        async with Client(server.url) as client:
            app_around = ASGIMiddleware(app, client, unit=unit_of_scope)
            await app_around(scope_of("green"), nothing, Sent(client))

    with ScriptedServer(service_script) as server:
        asyncio.run(play(server))
        assert sorted(decided(server)) == ["button", "title"]
        assert sorted(rewarded(server)) == ["button-green", "button-green", "title-green"]


def test_a_request_that_fails_sends_what_it_was_rewarded_with() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        (await decisions().decide("button", default=BLUE)).reward(1.0)
        raise RuntimeError("of the application")

    async def play(server: ScriptedServer) -> None:
        async with Client(server.url) as client:
            with pytest.raises(RuntimeError, match="application"):
                await ASGIMiddleware(app, client, unit=unit_of_scope)(
                    scope_of("green"), nothing, Sent(client)
                )

    with ScriptedServer(service_script) as server:
        asyncio.run(play(server))
        assert rewarded(server) == ["button-green"]


def test_a_reward_after_the_answer_is_queued_at_once() -> None:
    kept: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(await decisions().decide("button", default=BLUE))
        await respond(send, "")

    async def play(server: ScriptedServer) -> None:
        async with Client(server.url, outbox=LATER) as client:
            await ASGIMiddleware(app, client, unit=unit_of_scope)(scope_of("green"), nothing, Sent(client))
            assert kept[0].reward(1.0)
            assert client.n_queued == 1

    with ScriptedServer(service_script) as server:
        asyncio.run(play(server))


def test_lifespan_passes_through() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def play() -> None:
        async with Client() as client:
            await ASGIMiddleware(app, client, unit=unit_of_scope)({"type": "lifespan"}, nothing, Sent(client))

    asyncio.run(play())
    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (HANG, "TimedOut"),
        (answer(b"{}", 503), "Unavailable"),
        (answer(b"{}", 404), "NotFound"),
        (None, "NotConnected"),
    ],
)
def test_while_the_service_can_not_be_asked_the_default_is_served(script: Script | None, why: str) -> None:
    async def play(url: str) -> None:
        async with Client(url) as client:
            sent = Sent(client)
            started_s = time.monotonic()
            await ASGIMiddleware(app, client, unit=unit_of_scope, timeout=0.1)(
                scope_of("green"), nothing, sent
            )
            assert time.monotonic() - started_s < 5
            assert json.loads(sent.content) == ["blue", {"colour": "#00f"}, None, "default", False]
            assert client.counts == {"defaults": 1, why: 1}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        made = await decisions().decide("button", default=BLUE)
        shown = [made.arm, made.payload, made.decision_id, made.reason, made.reward(1.0)]
        await respond(send, json.dumps(shown))

    if script is None:
        asyncio.run(play("http://127.0.0.1:9"))
    else:
        with ScriptedServer(lambda *_: script) as server:
            asyncio.run(play(server.url))
            assert decided(server) == ["button"]
            assert rewarded(server) == []


def test_a_service_that_is_away_is_not_waited_for_by_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the default is served at once for a second, then one request asks again."""
    now_s = 100.0
    monkeypatch.setattr("bandit_serve_client.fallback.time.monotonic", lambda: now_s)
    scripts = [HANG]

    with (
        ScriptedServer(lambda request, n: scripts[0] if n == 0 else service_script(request, n)) as server,
        SyncClient(server.url) as client,
    ):
        arms = [client.open("button", unit="green", default=BLUE, timeout=0.1).arm for _ in range(50)]
        assert arms == ["blue"] * 50
        assert len(server.received) == 1
        now_s = 101.0
        assert client.open("button", unit="green", default=BLUE).arm == "green"
        assert client.counts == {"defaults": 50, "TimedOut": 1}


def test_a_refusal_is_no_reason_to_pause() -> None:
    """One experiment that is gone says nothing about the others."""

    def script(request: Received, n: int) -> Script:
        return answer(b"{}", 404) if "gone" in request.line else service_script(request, n)

    with ScriptedServer(script) as server, SyncClient(server.url) as client:
        assert client.open("gone", unit="green", default=BLUE).arm == "blue"
        assert client.open("button", unit="green", default=BLUE).arm == "green"


def wsgi_page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answers in parts, of which the last is made when the others are sent."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    decision = sync_decisions().decide("button", default=BLUE)
    decision.reward(1.0)

    def parts() -> Iterator[bytes]:
        yield decision.arm.encode()
        again = sync_decisions().decide("button", default=BLUE)
        assert again is decision
        again.reward(0.0, event_id="e")
        yield b"!"

    return parts()


def test_wsgi_has_one_decision_through_all_parts_of_the_answer() -> None:
    with ScriptedServer(service_script) as server, SyncClient(server.url, outbox=LATER) as client:
        app = WSGIMiddleware(wsgi_page, client, unit=lambda environ: environ["HTTP_X_USER"])
        content = app({"HTTP_X_USER": "green"}, lambda *_: None)
        assert b"".join(content) == b"green!"
        assert client.n_queued == 0
        content.close()  # type: ignore[attr-defined]
        assert client.n_queued == 2
        with pytest.raises(LookupError):
            sync_decisions()
        assert client.flush(20)
        assert decided(server) == ["button"]
        assert rewarded(server) == ["button-green"] * 2


def test_wsgi_closes_what_the_application_made_and_passes_on_its_errors() -> None:
    closed: list[str] = []

    class Content:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

        def close(self) -> None:
            closed.append(sync_decisions().decide("button", default=BLUE).arm)

    def failing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        sync_decisions().decide("button", default=BLUE).reward(1.0)
        raise RuntimeError("of the application")

    with ScriptedServer(service_script) as server, SyncClient(server.url, outbox=LATER) as client:
        content = WSGIMiddleware(lambda *_: Content(), client, unit=lambda _: "green")({}, lambda *_: None)
        content.close()  # type: ignore[attr-defined]
        assert closed == ["green"]
        with pytest.raises(RuntimeError, match="application"):
            WSGIMiddleware(failing, client, unit=lambda _: "green")({}, lambda *_: None)
        assert client.n_queued == 1


@contextmanager
def wsgi_served(app: Any) -> Iterator[str]:
    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = wsgiref.simple_server.make_server("127.0.0.1", 0, app, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def asgi_served(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until_s = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def fetch(url: str, user: str) -> str:
    request = urllib.request.Request(url, headers={"X-User": user})
    with urllib.request.urlopen(request, timeout=30) as response:
        content: bytes = response.read()
    return content.decode()


@pytest.fixture
def button(service: ThrowawayService) -> Iterator[str]:
    with SyncClient(service.url) as client:
        client.experiments.create(EXPERIMENT)
        client.experiments.start("button")
        yield service.url
        client.experiments.stop("button")
        client.experiments.delete("button")


def check_results(url: str, arms: dict[str, str]) -> None:
    """Each user was exposed once, and rewarded once."""
    with SyncClient(url) as client:
        results = client.experiments.results("button")
    for arm in results.arms:
        assert arm.metrics["click"].n == list(arms.values()).count(arm.name)
    assert set(arms.values()) == {"blue", "green"}


USERS = [f"user-{n}" for n in range(12)]


def test_a_real_asgi_server_before_a_real_service(button: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        decision = await decisions().decide("button", default=BLUE)
        decision.reward(1.0)
        await respond(send, decision.arm)

    async def lifespan(receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await client.close()
        await send({"type": "lifespan.shutdown.complete"})

    client = Client(button)
    with asgi_served(ASGIMiddleware(app, client, unit=unit_of_scope, timeout=20.0)) as url:
        arms = {user: fetch(url, user) for user in USERS for _ in range(2)}
    check_results(button, arms)


def test_a_real_wsgi_server_before_a_real_service(button: str) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        decision = sync_decisions().decide("button", default=BLUE)
        decision.reward(1.0)
        start_response("200 OK", [])
        return [decision.arm.encode()]

    with SyncClient(button) as client:
        around = WSGIMiddleware(app, client, unit=lambda environ: environ["HTTP_X_USER"], timeout=20.0)
        with wsgi_served(around) as url:
            arms = {user: fetch(url, user) for user in USERS for _ in range(2)}
    check_results(button, arms)


def test_a_real_aiohttp_server_before_a_real_service(button: str) -> None:
    async def show(request: web.Request) -> web.Response:
        decision = await decisions().decide("button", default=BLUE)
        decision.reward(1.0)
        assert await decisions().decide("button", default=BLUE) is decision
        return web.Response(text=decision.arm)

    async def fail(request: web.Request) -> web.Response:
        raise web.HTTPConflict

    async def play() -> dict[str, str]:
        async with Client(button) as client:
            carry = aiohttp_middleware(client, unit=lambda request: request.headers["X-User"], timeout=20.0)
            app = web.Application(middlewares=[carry])
            app.router.add_get("/", show)
            app.router.add_get("/fail", fail)
            async with TestServer(app) as server, ClientSession() as session:
                arms = {}
                for user in USERS * 2:
                    async with session.get(server.make_url("/"), headers={"X-User": user}) as response:
                        arms[user] = await response.text()
                async with session.get(server.make_url("/fail")) as response:
                    assert response.status == 409
            return arms

    check_results(button, asyncio.run(play()))


def test_deciding_is_a_block_for_a_decision_and_its_rewards(button: str) -> None:
    async def play() -> str:
        async with Client(button) as client:
            async with client.deciding("button", unit="u1") as decision:
                assert decision.reward(1.0)
            assert await client.flush(20)
            assert client.counts == {"accepted": 1}
            async with client.deciding("nothing", unit="u1", default=BLUE) as decision:
                assert decision.arm == "blue"
                assert not decision.reward(1.0)
        return decision.arm

    asyncio.run(play())
    with SyncClient(button) as client:
        with client.deciding("button", unit="u2") as decision:
            decision.reward(1.0)
        assert client.flush(20)
        results = client.experiments.results("button")
        assert sum(arm.metrics["click"].n for arm in results.arms) == 2
