"""Connections of both clients: kept alive, bounded, given up in time, and calls that are sent again or not."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bandit_serve_client import (
    Client,
    ClientError,
    Closed,
    DecisionRequest,
    Default,
    Late,
    NoAnswer,
    NotConnected,
    PredictionRequest,
    Problem,
    Reward,
    SyncClient,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unsendable,
)
from both_clients import CLIENTS
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from scripted_server import CLOSE, HANG, Received, Script, ScriptedServer, answer

DECISION = {
    "decision_id": "t",
    "experiment": "e",
    "arm": "a",
    "propensity": 0.5,
    "model": None,
    "payload": None,
}
DECIDED = answer(json.dumps(DECISION).encode())
COUNTED = answer(b'{"accepted":1,"duplicates":0,"rejected":0,"verdicts":["accepted"]}')
AWAY = answer(b'{"title":"Try again later","detail":"The store is away."}', 503, "Retry-After: 0")
NOT_BEGUN = answer(b'{"type":"urn:bandit-serve:problem:not-begun"}', 503, "Retry-After: 0")
AWAY_FOR_LONG = answer(b"{}", 503, "Retry-After: 60")
HALF = Script(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"', closes=True)

Make = Callable[..., Any]


@pytest.fixture(params=CLIENTS)
def client_of(request: pytest.FixtureRequest) -> Make:
    made: Make = CLIENTS[request.param]
    return made


def saying(*scripts: Script) -> Callable[[Received, int], Script]:
    """Script that answers request after request, and all later ones as the last."""
    return lambda _, number: scripts[min(number, len(scripts) - 1)]


def test_a_connection_is_used_again(client_of: Make) -> None:
    with ScriptedServer(saying(DECIDED)) as server, client_of(server.url) as client:
        for _ in range(10):
            assert client.decide("e").arm == "a"
        assert server.n_connections == 1
        assert {request.connection for request in server.received} == {0}


def test_one_that_was_closed_is_not(client_of: Make) -> None:
    with ScriptedServer(saying(DECIDED)) as server, client_of(server.url) as client:
        client.decide("e")
        server.drop_connections()
        client.decide("e")
        assert [request.connection for request in server.received] == [0, 1]


def test_one_that_was_idle_for_long_is_not(client_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(saying(DECIDED)) as server, client_of(server.url) as client:
        client.decide("e")
        for module in ("connections", "async_connections"):
            monkeypatch.setattr(f"bandit_serve_client.{module}.MAX_IDLE_S", 0.0)
        client.decide("e")
        assert [request.connection for request in server.received] == [0, 1]


def test_those_that_nobody_needs_any_more_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After many calls at once few are needed: the others do not stay open until there are many again."""

    async def play(url: str) -> int:
        async with Client(url) as client:
            await asyncio.gather(*[client.decide("e") for _ in range(20)])
            monkeypatch.setattr("bandit_serve_client.async_connections.MAX_IDLE_S", 0.0)
            await client.decide("e")
            return len(client._connections._idle)

    with ScriptedServer(saying(DECIDED)) as server:
        assert asyncio.run(play(server.url)) == 1
        with SyncClient(server.url) as client:
            with ThreadPoolExecutor(20) as threads:
                list(threads.map(lambda _: client.decide("e"), range(100)))
            monkeypatch.setattr("bandit_serve_client.connections.MAX_IDLE_S", 0.0)
            client.decide("e")
            assert len(client._connections._idle) == 1


def test_the_key_and_the_path_are_sent(client_of: Make) -> None:
    with ScriptedServer(saying(DECIDED)) as server, client_of(f"{server.url}/team", "bs_k") as client:
        client.decide("a b/ü", unit="u")
        (request,) = server.received
        assert request.line == "POST /team/v1/experiments/a%20b%2F%C3%BC/decide HTTP/1.1"
        assert b"Authorization: Bearer bs_k" in request.head
        assert json.loads(request.body) == {"unit": "u"}


@pytest.mark.parametrize("script", [HANG, Script(b"HTTP/1.1 200 OK\r\n", hangs=True)])
def test_a_call_ends_in_time(client_of: Make, script: Script) -> None:
    with ScriptedServer(saying(script)) as server, client_of(server.url) as client:
        started_s = time.monotonic()
        with pytest.raises(TimedOut):
            client.decide("e", timeout=0.5)
        assert 0.5 <= time.monotonic() - started_s < 5


def test_an_answer_that_drips_ends_in_time(client_of: Make) -> None:
    """Each byte comes soon after the last, and the whole never."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with client_of(url, timeout=0.3) as client, pytest.raises(TimedOut):
            client.decide("e")
        stop.set()
        thread.join()


@pytest.mark.parametrize("connect_timeout", [0.1, 5])
def test_a_connection_that_is_not_made_ends_in_time(client_of: Make, connect_timeout: float) -> None:
    """A listener whose queue is full answers nothing to who would connect."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}"
        with client_of(url, connect_timeout=connect_timeout, timeout=0.35) as client:
            started_s = time.monotonic()
            with pytest.raises(NotConnected):
                client.decide("e")
            assert time.monotonic() - started_s < 5
        for each in waiting:
            each.close()


def test_nobody_there_is_said_and_tried_until_the_time_is_over(client_of: Make) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with client_of(f"http://127.0.0.1:{port}", timeout=0.5) as client:
            started_s = time.monotonic()
            with pytest.raises(NotConnected, match=f"127.0.0.1:{port}"):
                client.decide("e")
            assert 0.1 < time.monotonic() - started_s < 5
    with client_of("http://nowhere.invalid", timeout=0.3) as client, pytest.raises(NotConnected):
        client.decide("e")


def test_a_service_that_starts_meanwhile_answers(client_of: Make) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        address = reserved.getsockname()

        def start() -> None:
            time.sleep(0.2)
            reserved.listen()
            connection, _ = reserved.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(DECIDED.sent)

        thread = threading.Thread(target=start)
        thread.start()
        with client_of(f"http://127.0.0.1:{address[1]}") as client:
            assert client.decide("e").arm == "a"
        thread.join()


@pytest.mark.parametrize("failure", [AWAY, CLOSE, HALF, answer(b"", 502), answer(b"", 504)])
def test_rewards_are_sent_again_with_the_same_ids(client_of: Make, failure: Script) -> None:
    with ScriptedServer(saying(failure, failure, COUNTED)) as server, client_of(server.url) as client:
        assert client.reward("t", 1.0) == "accepted"
        assert len(server.received) == 3
        assert len({request.body for request in server.received}) == 1
    with ScriptedServer(saying(failure, COUNTED)) as server, client_of(server.url) as client:
        assert client.track("e", unit="u", value=2.5) == "accepted"
        first, second = (json.loads(request.body) for request in server.received)
        assert first == second
        assert len(first["event_id"]) == 32
        client.track("e", unit="u", value=2.5)
        assert json.loads(server.received[2].body)["event_id"] != first["event_id"]


DECIDING: dict[str, Callable[[Any], Any]] = {
    "decide": lambda client: client.decide("e"),
    "decide_many": lambda client: client.decide_many("e", [DecisionRequest("u")]),
    "predict": lambda client: client.predict("e", "u", k=1),
    "predict_many": lambda client: client.predict_many("e", [PredictionRequest(user_id="u", k=1)]),
}


@pytest.mark.parametrize("name", DECIDING)
def test_a_decision_is_sent_again_where_it_was_not_begun_only(client_of: Make, name: str) -> None:
    """After another 503, or a broken connection, one may be logged: a second is an exposure that nobody sees."""
    decided = answer(json.dumps({"responses": [DECISION]}).encode()) if name.endswith("many") else DECIDED
    with ScriptedServer(saying(NOT_BEGUN, decided)) as server, client_of(server.url) as client:
        DECIDING[name](client)
        assert len(server.received) == 2
    failures = [
        (AWAY, Unavailable),
        (answer(NOT_BEGUN.sent.partition(b"\r\n\r\n")[2], 502), Unavailable),
        (CLOSE, NoAnswer),
        (HALF, NoAnswer),
    ]
    for failure, error in failures:
        with ScriptedServer(saying(failure, decided)) as server, client_of(server.url) as client:
            with pytest.raises(error):
                DECIDING[name](client)
            assert len(server.received) == 1


@pytest.mark.parametrize("later", [False, True])
def test_nobody_gets_the_answer_of_another(client_of: Make, later: bool) -> None:
    """A server that answers a request twice, at once or a moment later: the second is nobody's."""

    def of(unit: str) -> bytes:
        return answer(json.dumps({**DECISION, "arm": unit}).encode()).sent

    def script(request: Received, number: int) -> Script:
        own, stale = of(json.loads(request.body)["unit"]), of("stale")
        return Script(own, then=stale) if later else Script(own + stale)

    with ScriptedServer(script) as server, client_of(server.url) as client:
        for unit in ("u1", "u2", "u3"):
            assert client.decide("e", unit=unit).arm == unit
            wait_until(client, lambda: server.n_sent == len(server.received))
        assert server.n_connections == 3


def wait_until(client: Any, condition: Callable[[], bool]) -> None:
    """Waits for it, and then for one look of the client's event loop at its sockets, if it has one."""
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.005)
    if not isinstance(client, SyncClient):
        client._runner.run(asyncio.sleep(0.02))


def test_a_change_is_sent_again_where_it_was_not_begun_only(client_of: Make) -> None:
    """It may have been made in spite of another 503: the same again would be refused as a conflict."""
    with ScriptedServer(saying(NOT_BEGUN, answer(b"", 204))) as server, client_of(server.url) as client:
        client.experiments.delete("e")
        assert len(server.received) == 2
    for failure, error in ((AWAY, Unavailable), (CLOSE, NoAnswer)):
        with ScriptedServer(saying(failure)) as server, client_of(server.url) as client:
            with pytest.raises(error):
                client.experiments.start("e")
            assert len(server.received) == 1


def test_a_read_is_sent_again(client_of: Make) -> None:
    listed = answer(b'{"experiments": []}')
    with ScriptedServer(saying(CLOSE, AWAY, listed)) as server, client_of(server.url) as client:
        assert client.experiments.list() == []
        assert len(server.received) == 3


def test_a_pause_that_is_too_long_is_not_waited_for(client_of: Make) -> None:
    with ScriptedServer(saying(AWAY_FOR_LONG)) as server, client_of(server.url, timeout=5) as client:
        started_s = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            client.reward("t", 1.0)
        assert raised.value.retry_after == 60.0
        assert time.monotonic() - started_s < 4
        assert len(server.received) == 1


def test_problems_are_raised_with_all_that_they_say(client_of: Make) -> None:
    body = json.dumps(
        {
            "type": "urn:bandit-serve:problem:late",
            "title": "Too late",
            "status": 410,
            "detail": "The window has closed.",
            "errors": [{"at": "decision_id", "detail": "late"}],
        }
    ).encode()
    with ScriptedServer(saying(answer(body, 410))) as server, client_of(server.url) as client:
        with pytest.raises(Late) as raised:
            client.reward("t", 1.0)
        assert isinstance(raised.value, Problem)
        assert isinstance(raised.value, ClientError)
        assert (raised.value.status, raised.value.type) == (410, "urn:bandit-serve:problem:late")
        assert (raised.value.title, raised.value.detail) == ("Too late", "The window has closed.")
        assert [(each.at, each.detail) for each in raised.value.errors] == [("decision_id", "late")]
        assert raised.value.retry_after is None
    with (
        ScriptedServer(saying(answer(b"{}", 401))) as server,
        client_of(server.url) as client,
        pytest.raises(Unauthorized),
    ):
        client.decide("e")


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[]",
        b"{}",
        b"null",
        json.dumps({**DECISION, "propensity": "x"}).encode(),
        json.dumps({**DECISION, "arm": None}).encode(),
        json.dumps({**DECISION, "model": []}).encode(),
        json.dumps({**DECISION, "propensity": 10**400}).encode(),
        b'{"payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"payload": ' + b"1" * 10_000 + b"}",
        b"\xff\xfe",
    ],
)
def test_answers_that_are_not_of_the_contract_are_said(client_of: Make, content: bytes) -> None:
    with (
        ScriptedServer(saying(answer(content))) as server,
        client_of(server.url) as client,
        pytest.raises(UnexpectedAnswer),
    ):
        client.decide("e")
    with (
        ScriptedServer(saying(answer(b"", 302))) as server,
        client_of(server.url) as client,
        pytest.raises(UnexpectedAnswer, match="302"),
    ):
        client.decide("e")


ANSWERS = [
    b'{"responses": [{"detail": "x", "status": "abc"}]}',
    b'{"responses": [{"detail": "x", "status": null}]}',
    b'{"accepted": 0, "duplicates": 0, "rejected": 0, "verdicts": []}',
    b'{"accepted": 0, "duplicates": 0, "rejected": 0, "verdicts": [[]]}',
    b'{"experiments": [1], "models": {}, "history": 3}',
    b"[" * 100_000 + b"]" * 100_000,
    b'{"responses": [' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]}",
]


@pytest.mark.parametrize("status", [200, 299, 400, 404, 409, 418, 500, 503, 599])
@pytest.mark.parametrize("content", ANSWERS)
def test_whatever_an_answer_holds_the_error_is_the_client_s(
    client_of: Make, content: bytes, status: int
) -> None:
    calls: list[Callable[[Any], Any]] = [
        *DECIDING.values(),
        lambda client: client.reward("t", 1.0),
        lambda client: client.rewards([Reward("t", 1.0)]),
        lambda client: client.exposures(["t"]),
        lambda client: client.health(),
        lambda client: client.experiments.list(),
        lambda client: client.experiments.results("e"),
        lambda client: client.experiments.history("e"),
        lambda client: client.models.list(),
        lambda client: client.models.score("m", user_id="u", k=1),
    ]
    always = lambda *_: answer(content, status, "Retry-After: " + "9" * 400)  # noqa: E731
    with ScriptedServer(always) as server, client_of(server.url, timeout=5) as client:
        for call in calls:
            try:
                call(client)
            except ClientError:
                continue
            assert status < 300
        decision = client.open("e", default=Default("control"))
        assert decision.arm == "control"


def test_a_later_service_may_say_more(client_of: Make) -> None:
    more = json.dumps({**DECISION, "propensity": 1, "new": {"a": 1}}).encode()
    with ScriptedServer(saying(answer(more))) as server, client_of(server.url) as client:
        assert client.decide("e").propensity == 1.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, "\ud800"])
def test_values_without_a_form_in_json_are_refused(client_of: Make, value: Any) -> None:
    with ScriptedServer(saying(DECIDED)) as server, client_of(server.url) as client:
        with pytest.raises(Unsendable):
            client.decide("e", context={"x": value})
        with pytest.raises(Unsendable):
            client.decide("\ud800")
        with pytest.raises(Unsendable):
            client.experiments.start("e", if_match="a\nb")
        assert server.received == []


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 10**400, "1", None])
def test_rewards_have_a_finite_value(value: Any) -> None:
    with pytest.raises(ValueError, match="value"):
        Reward("t", value)


def test_a_closed_client_says_so(client_of: Make) -> None:
    with ScriptedServer(saying(DECIDED)) as server, client_of(server.url) as client:
        client.decide("e")
        client.close()
        with pytest.raises(Closed):
            client.decide("e")


def test_threads_share_a_client() -> None:
    """Each gets the answer to its own request, over no more connections than there are threads."""

    def echo(request: Received, _: int) -> Script:
        return answer(json.dumps({**DECISION, "arm": json.loads(request.body)["unit"]}).encode())

    with ScriptedServer(echo) as server, SyncClient(server.url, max_connections=3) as client:
        with ThreadPoolExecutor(8) as threads:
            units = [f"u{n}" for n in range(200)]
            decided = list(threads.map(lambda unit: client.decide("e", unit=unit).arm, units))
        assert decided == units
        assert server.n_connections <= 3


def test_tasks_share_a_client() -> None:
    def echo(request: Received, _: int) -> Script:
        return answer(json.dumps({**DECISION, "arm": json.loads(request.body)["unit"]}).encode())

    async def decide_all(url: str) -> list[str]:
        async with Client(url, max_connections=3) as client:
            decisions = await asyncio.gather(*[client.decide("e", unit=f"u{n}") for n in range(200)])
        return [decision.arm for decision in decisions]

    with ScriptedServer(echo) as server:
        assert asyncio.run(decide_all(server.url)) == [f"u{n}" for n in range(200)]
        assert server.n_connections <= 3


def test_a_client_is_for_one_loop() -> None:
    with ScriptedServer(saying(DECIDED)) as server, asyncio.Runner() as own, asyncio.Runner() as other:
        client = Client(server.url)
        own.run(client.decide("e"))
        with pytest.raises(RuntimeError, match="another event loop"):
            other.run(client.decide("e"))
        own.run(client.close())


def test_a_task_that_is_cancelled_leaves_no_answer_to_others() -> None:
    """The connection with the answer that nobody took is closed, not used again."""
    slow = threading.Event()

    def script(request: Received, number: int) -> Script:
        if number == 0:
            slow.wait(10)
        return answer(json.dumps({**DECISION, "arm": json.loads(request.body)["unit"]}).encode())

    async def cancel_one(url: str) -> str:
        async with Client(url, max_connections=1) as client:
            first = asyncio.create_task(client.decide("e", unit="first"))
            await asyncio.sleep(0.1)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            slow.set()
            return (await client.decide("e", unit="second")).arm

    with ScriptedServer(script) as server:
        assert asyncio.run(cancel_one(server.url)) == "second"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that is trusted by whom trusts it itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(pem)
    )
    return path


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[int]:
    """A server with TLS that answers every request with a decision."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    while connection.recv(65_536):
                        connection.sendall(DECIDED.sent)
            except OSError:
                plain.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_tls_is_spoken_with_those_that_are_trusted(client_of: Make, tls_port: int, certificate: Path) -> None:
    trusted = ssl.create_default_context(cafile=str(certificate))
    with client_of(f"https://localhost:{tls_port}", ssl_context=trusted) as client:
        assert [client.decide("e").arm for _ in range(3)] == ["a"] * 3


def test_a_certificate_that_nobody_vouches_for_is_refused(client_of: Make, tls_port: int) -> None:
    url = f"https://localhost:{tls_port}"
    with client_of(url, timeout=0.5) as client, pytest.raises(NotConnected, match="certificate"):
        client.decide("e")
