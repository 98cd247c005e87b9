"""Questions to upstreams: bounded in time, size and number, and every way in which an upstream may fail."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from builders import eventually
from upstreams import FAILING, ThrowawayUpstream

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.base.http_address import HttpAddress
from bandit_serve.errors import Conflict, ContentRefused, ModelLost, Overloaded, UpstreamFailed, in_full
from bandit_serve.serving.upstream_version import UpstreamVersion
from bandit_serve.upstreams import headers
from bandit_serve.upstreams import pool as module
from bandit_serve.upstreams.pool import Endpoint, UpstreamPool
from bandit_serve.upstreams.upstream import AllowedUpstreams, Upstream

T = TypeVar("T")
TIMEOUT_S = 0.3
# What a busy machine may need beyond it.
PATIENCE_S = 60.0
ASKED = ScoreRequest(user_id="u", item_id="i")


@pytest.fixture
def server() -> Iterator[ThrowawayUpstream]:
    with ThrowawayUpstream() as upstream:
        yield upstream


def run(
    server: ThrowawayUpstream,
    scenario: Callable[[UpstreamPool, Endpoint], Awaitable[T]],
    *prefixes: str,
    timeout: str = f"{TIMEOUT_S * 1000:.0f}ms",
    headers: dict[str, str] | None = None,
) -> T:
    async def whole() -> T:
        allowed = [HttpAddress.parse(each) for each in prefixes or (server.base,)]
        pool = UpstreamPool(AllowedUpstreams(allowed))
        try:
            upstream = Upstream(server.url, "json", None, timeout, headers or {})
            return await scenario(pool, Endpoint(pool, upstream, "m v1"))
        finally:
            await pool.close()

    return asyncio.run(whole())


def version(pool: UpstreamPool, url: str, timeout: str = f"{TIMEOUT_S * 1000:.0f}ms") -> UpstreamVersion:
    return UpstreamVersion(pool, Upstream(url, "json", None, timeout), "m", "v1")


def test_a_question_is_posted_and_connections_are_kept(server: ThrowawayUpstream) -> None:
    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        for _ in range(5):
            assert await endpoint.post(endpoint.url(), b'{"item_id": "i"}') == b'{"prediction": 0.5}'
        assert len(pool.session.connector._conns) == 1  # type: ignore[union-attr]

    run(server, scenario)
    question = server.asked[0]
    assert (question.method, question.path, question.body) == ("POST", "/predict", {"item_id": "i"})
    assert question.headers["Content-Type"] == "application/json"
    assert "Cookie" not in question.headers


@pytest.mark.parametrize("mode", FAILING)
def test_whatever_an_upstream_does_is_a_failure_within_its_time(server: ThrowawayUpstream, mode: str) -> None:
    server.mode = mode

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        asked = version(pool, server.url)
        began_s = time.monotonic()
        with pytest.raises(UpstreamFailed, match="The upstream of m v1") as failed:
            await asked.score(ASKED)
        assert time.monotonic() - began_s < TIMEOUT_S + PATIENCE_S
        assert "secret" not in in_full(failed.value), "nothing of an upstream's answer is repeated"
        assert str(server.port) not in str(failed.value), "an answer names no address"
        server.mode = "good"
        patient = version(pool, server.url, f"{PATIENCE_S:.0f}s")
        assert await patient.score(ASKED) == {"prediction": 0.5}

    run(server, scenario)
    assert server.n_asked == 2, "nothing is asked twice, and no redirect followed"
    assert all(question.path == "/predict" for question in server.asked)


def test_one_that_is_not_there_is_a_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    async def scenario() -> None:
        pool = UpstreamPool(AllowedUpstreams([HttpAddress.parse("http://127.0.0.1")._replace(port=port)]))
        try:
            with pytest.raises(UpstreamFailed, match="can not be reached or broke off"):
                await version(pool, f"http://127.0.0.1:{port}/").score(ASKED)
        finally:
            await pool.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_of_the_content_is_never_a_failure(server: ThrowawayUpstream, status: int) -> None:
    """Else whoever repeats a request that is refused could take the upstream from all others."""
    server.mode = str(status)

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        for _ in range(20):
            with pytest.raises(
                ContentRefused, match=f"refused the request's content, with the status {status}"
            ):
                await endpoint.post(endpoint.url(), b'{"item_id": "i"}')

    run(server, scenario)


def test_questions_at_once_and_those_that_wait_are_bounded(
    server: ThrowawayUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    server.mode = "hang"

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        asked = [asyncio.ensure_future(endpoint.post(endpoint.url(), b"{}")) for _ in range(5)]
        await eventually(lambda: server.n_asked == 2 and endpoint._waiting == 3)
        with pytest.raises(Overloaded, match="More than 2 requests are under way to the upstream of m v1"):
            await endpoint.post(endpoint.url(), b"{}")
        failures = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in failures] == [UpstreamFailed] * 2 + [Overloaded] * 3
        assert all("gave no answer in 2000 ms" in str(each) for each in failures[:2])
        server.mode = "good"
        answers = [endpoint.post(endpoint.url(), b'{"item_id": "i"}') for _ in range(5)]
        assert len(await asyncio.gather(*answers)) == 5

    run(server, scenario, timeout="2s")


def test_waiting_for_a_place_counts_as_time(
    server: ThrowawayUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    server.mode = "hang"

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> float:
        began_s = time.monotonic()
        both = [endpoint.post(endpoint.url(), b"{}") for _ in range(2)]
        failures = await asyncio.gather(*both, return_exceptions=True)
        assert [type(each) for each in failures] == [UpstreamFailed, Overloaded], "one had not its time"
        return time.monotonic() - began_s

    assert run(server, scenario) < 2 * TIMEOUT_S + PATIENCE_S


def test_a_cancelled_question_gives_its_place_back(
    server: ThrowawayUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    server.mode = "hang"

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        first, second = (asyncio.ensure_future(endpoint.post(endpoint.url(), b"{}")) for _ in range(2))
        await eventually(lambda: server.n_asked == 1)
        for each in (second, first):
            each.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        server.mode = "good"
        await endpoint.post(endpoint.url(), b'{"item_id": "i"}')

    run(server, scenario, timeout="5s")


def test_what_is_not_allowed_is_never_called(server: ThrowawayUpstream) -> None:
    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        with pytest.raises(Conflict, match="not below any address"):
            await version(pool, server.url).score(ASKED)

    run(server, scenario, "http://127.0.0.1:1", server.base + "/elsewhere")
    assert server.asked == []


def test_what_is_no_longer_allowed_is_not_called_again(server: ThrowawayUpstream) -> None:
    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        asked = version(pool, server.url)
        await asked.score(ASKED)
        pool.allowed = AllowedUpstreams([])
        with pytest.raises(Conflict, match="not below any address"):
            await asked.score(ASKED)

    run(server, scenario)
    assert server.n_asked == 1


def test_headers_are_sent_and_read_again_when_they_are_refused(
    server: ThrowawayUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("Bearer first-token\n")

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        await endpoint.post(endpoint.url(), b'{"item_id": "i"}')
        file.write_text("Bearer second-token\n")
        await endpoint.post(endpoint.url(), b'{"item_id": "i"}')
        server.mode = "401"
        with pytest.raises(UpstreamFailed, match="status 401"):
            await endpoint.post(endpoint.url(), b"{}")
        server.mode = "good"
        await endpoint.post(endpoint.url(), b'{"item_id": "i"}')

    run(server, scenario, headers={"Authorization": f"file:{file}"})
    tokens = [question.headers["Authorization"].split()[-1] for question in server.asked]
    assert tokens == ["first-token", "first-token", "first-token", "second-token"]


def test_files_of_headers_that_hang_hold_neither_the_question_nor_other_threads(
    server: ThrowawayUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a network's file system may: its threads wait for it, as many as there are, and nothing else does."""
    ended = threading.Event()
    monkeypatch.setattr(headers, "MAX_READ_S", 0.1)
    n_read = [0]

    def hang(path: str) -> bytes:
        n_read[0] += 1
        ended.wait(30)
        return b"value"

    monkeypatch.setattr(headers, "_content", hang)

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        for _ in range(2):
            asked = [endpoint.read_headers() for _ in range(3 * headers.MAX_READERS)]
            failures = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(each) for each in failures] == [UpstreamFailed] * len(asked)
        assert n_read == [1], "one that hangs is not read again and again"
        assert "could not be read in 0.1 s" in in_full(failures[0])  # type: ignore[arg-type]
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 5.0) == 1

    try:
        run(server, scenario, headers={"Authorization": "file:/secret"})
    finally:
        ended.set()


def test_a_large_question_is_sent_whole(server: ThrowawayUpstream) -> None:
    body = b'{"item_id": "i", "x": "' + b"x" * 3 * 2**20 + b'"}'

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        await endpoint.post(endpoint.url(), body)

    run(server, scenario, timeout="20s")
    assert len(server.asked[0].body["x"]) == 3 * 2**20


def test_no_proxy_variable_is_heeded(server: ThrowawayUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        await endpoint.post(endpoint.url(), b'{"item_id": "i"}')

    run(server, scenario)


@pytest.mark.parametrize(("mode", "status"), [("unready", 503), ("unknown", 400)])
def test_one_that_is_not_ready_is_lost_until_it_is(server: ThrowawayUpstream, mode: str, status: int) -> None:
    server.mode = mode

    async def scenario(pool: UpstreamPool, endpoint: Endpoint) -> None:
        asked = UpstreamVersion(pool, Upstream(server.base, "open-inference", "m"), "m", "v1")
        with pytest.raises(ModelLost, match=f"The upstream of m v1 answered with the status {status}"):
            await asked.warm()
        server.mode = "good"
        await asked.warm()

    run(server, scenario)
    assert [question.path for question in server.asked] == [
        "/v2/models/m/ready",
        "/v2/models/m/ready",
        "/v2/models/m",
    ]
