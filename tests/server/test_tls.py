"""TLS: requests, handshakes that stall, renewals, and stopping."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import DAY, Authority, Pair
from cryptography import x509
from http_calls import running
from raw_http import post
from services import ThrowawayService
from stores import wait_until

AUTHORITY = Authority()
GET_READY = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"


def secure_service(data: Path, pair: Pair, *flags: str, workers: int = 1) -> ThrowawayService:
    data.mkdir(exist_ok=True)
    service = ThrowawayService(data / "data", *pair.write(data), *flags, workers=workers)
    service.tls = AUTHORITY.trusting()
    return service


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with secure_service(tmp_path_factory.mktemp("tls"), AUTHORITY.make(life=3 * DAY)) as service:
        yield service


@contextlib.contextmanager
def connected(service: ThrowawayService, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
    plain = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    assert service.tls is not None
    with (context or service.tls).wrap_socket(plain, server_hostname="localhost") as connection:
        yield connection


def answer_from(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer; status 0 where the connection ends without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65_536)
        if not piece:
            return 0, received
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"ontent-Length" in line)
    while len(body) < length:
        body += connection.recv(65_536)
    return int(head.split(b" ")[1]), body


def serial(connection: ssl.SSLSocket) -> int:
    shown = connection.getpeercert()
    assert shown is not None
    return int(str(shown["serialNumber"]), 16)


def shown_serial(service: ThrowawayService) -> int:
    with connected(service) as connection:
        return serial(connection)


def serial_of(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.cert).serial_number


def metric(service: ThrowawayService, name: str) -> float:
    text = service.call("GET", "/metrics").body.decode()
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[-1])


def test_the_whole_way_of_a_request(secure: ThrowawayService) -> None:
    assert secure.url.startswith("https://127.0.0.1:")
    name = running(secure)
    decided = secure.call("POST", f"/v1/experiments/{name}/decide", {"unit": "u"})
    assert decided.status == 200
    reward = {"decision_id": decided.body["decision_id"], "value": 1}
    assert secure.call("POST", "/v1/rewards", reward).status == 200
    batch = {"requests": [{"unit": str(i)} for i in range(10_000)]}
    answers = secure.call("POST", f"/v1/experiments/{name}/decide/batch", batch).body["responses"]
    assert len(answers) == 10_000


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_one_connection_takes_many_requests_in_order(
    secure: ThrowawayService, version: ssl.TLSVersion
) -> None:
    name, context = running(secure), AUTHORITY.trusting()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connected(secure, context) as connection:
        assert connection.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        assert connection.selected_alpn_protocol() == "http/1.1"
        for number in range(20):
            connection.sendall(post(f"/v1/experiments/{name}/decide", {"unit": str(number)}))
            status, body = answer_from(connection)
            assert (status, json.loads(body)["experiment"]) == (200, name)
        request = post(f"/v1/experiments/{name}/decide", {"unit": "one byte at a time"})
        for i in range(len(request)):
            connection.sendall(request[i : i + 1])
        assert answer_from(connection)[0] == 200


def test_older_versions_are_refused(secure: ThrowawayService) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError), connected(secure, context):
        pass


def test_what_is_no_handshake_is_cut_off_and_not_logged(secure: ThrowawayService) -> None:
    failed = 'bandit_serve_connections_ended_total{why="handshake"}'
    before, lines = metric(secure, failed), len(secure.output)
    for sent in (GET_READY, os.urandom(200), b"\x16\x03\x01\x02\x00\x01" + bytes(40) + b"\xff" * 600, b""):
        with socket.create_connection(("127.0.0.1", secure.port), timeout=60) as connection:
            connection.sendall(sent)
            if sent:
                with contextlib.suppress(ConnectionError):
                    while connection.recv(1_000):
                        pass
    wait_until(lambda: metric(secure, failed) >= before + 3)
    assert not [line for line in secure.output[lines:] if "Traceback" in line or "ERROR" in line]


def test_a_caller_that_goes_within_a_body_or_its_answer_leaves_nothing(secure: ThrowawayService) -> None:
    name, lines = running(secure), len(secure.output)
    whole = post(f"/v1/experiments/{name}/decide", {"unit": "u"})
    for sent in (whole[:-4], whole[:30], whole * 50):
        with connected(secure) as connection:
            connection.sendall(sent)
            with contextlib.suppress(OSError):
                connection.unwrap()
    with connected(secure) as connection:
        connection.sendall(whole)
        assert answer_from(connection)[0] == 200
    wait_until(lambda: metric(secure, "bandit_serve_connections") <= 1)
    assert not [line for line in secure.output[lines:] if "eof_received" in line or "Traceback" in line]


def test_the_expiry_is_a_metric(secure: ThrowawayService) -> None:
    left_s = metric(secure, "bandit_serve_tls_expiry_timestamp_seconds") - time.time()
    assert 2.9 * 86_400 < left_s < 3.1 * 86_400


def test_handshakes_that_stall_count_as_connections_and_end(tmp_path: Path) -> None:
    flags = ("--header-timeout", "3s", "--max-connections", "32")
    with secure_service(tmp_path, AUTHORITY.make(), *flags) as service, contextlib.ExitStack() as open_:
        hello = ssl.MemoryBIO()
        client = AUTHORITY.trusting().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        first_half = hello.read()
        stalled = []
        for i in range(200):
            connection = open_.enter_context(
                socket.create_connection(("127.0.0.1", service.port), timeout=60)
            )
            with contextlib.suppress(ConnectionError):
                connection.sendall((b"", first_half[:50], first_half)[i % 3])
            stalled.append(connection)
        for _ in range(5):
            assert service.call("GET", "/health/ready").status == 200
        assert metric(service, "bandit_serve_connections") <= 32 + 64
        assert metric(service, 'bandit_serve_connections_ended_total{why="crowded"}') >= 1
        for connection in stalled:
            with contextlib.suppress(ConnectionError):
                while connection.recv(10_000):
                    pass
        wait_until(lambda: metric(service, "bandit_serve_connections") <= 1)
        assert metric(service, 'bandit_serve_connections_ended_total{why="late"}') >= 1


def _replace_files(folder: Path, pair: Pair) -> None:
    pair.write(folder)


def _rewrite_in_place(folder: Path, pair: Pair) -> None:
    (folder / "tls.crt").write_bytes(pair.cert)
    (folder / "tls.key").write_bytes(pair.key)


@pytest.mark.parametrize("renew", [_replace_files, _rewrite_in_place])
def test_a_renewal_drops_no_connection(tmp_path: Path, renew: Callable[[Path, Pair], None]) -> None:
    first, second = AUTHORITY.make(), AUTHORITY.make(life=9 * DAY)
    with secure_service(tmp_path, first, workers=2) as service, connected(service) as kept:
        name = running(service)
        stop, answered = threading.Event(), []

        def ask() -> None:
            while not stop.is_set():
                answered.append(service.call("GET", "/health/ready").status)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            old, new = serial_of(first), serial_of(second)
            assert shown_serial(service) == old == serial(kept)
            renew(tmp_path, second)
            wait_until(lambda: {shown_serial(service) for _ in range(12)} == {new})
        finally:
            stop.set()
            asking.join(60)
        kept.sendall(post(f"/v1/experiments/{name}/decide", {}))
        assert answer_from(kept)[0] == 200
        assert set(answered) == {200}
        assert metric(service, "bandit_serve_tls_expiry_timestamp_seconds") > time.time() + 8 * 86_400


def test_a_renewal_by_links_as_of_kubernetes(tmp_path: Path) -> None:
    pairs = [AUTHORITY.make() for _ in range(3)]

    def swing(number: int) -> None:
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        pairs[number].write(folder)
        (tmp_path / "..new").symlink_to(folder.name)
        os.replace(tmp_path / "..new", tmp_path / "..data")

    swing(0)
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    flags = ("--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key"))
    service = ThrowawayService(tmp_path / "data", *flags)
    service.tls = AUTHORITY.trusting()
    with service:
        for number in (1, 2):
            swing(number)
            wanted = serial_of(pairs[number])
            wait_until(lambda wanted=wanted: shown_serial(service) == wanted)


def reasons(service: ThrowawayService) -> list[Any]:
    body = service.call("GET", "/health/ready").body
    return [each["what"] for each in body.get("reasons", [])]


def test_a_broken_renewal_keeps_the_old_one_and_is_said_once(tmp_path: Path) -> None:
    first, third = AUTHORITY.make(), AUTHORITY.make()
    with secure_service(tmp_path, first) as service:
        old = serial_of(first)
        (tmp_path / "tls.crt").write_bytes(AUTHORITY.make().cert)
        wait_until(lambda: reasons(service) == ["tls_certificate"])
        assert shown_serial(service) == old
        AUTHORITY.make(life=-DAY).write(tmp_path)
        (tmp_path / "tls.key").chmod(0o644)
        (tmp_path / "tls.key").unlink()
        wait_until(lambda: "can not be read" in str(service.call("GET", "/health/ready").body))
        assert shown_serial(service) == old
        third.write(tmp_path)
        wait_until(lambda: reasons(service) == [])
        assert shown_serial(service) == serial_of(third)
        said = [line for line in service.output if "tls_certificate" in line]
        assert len(said) == 2, said
        assert "the former goes on" in said[0]
        assert "no longer degraded" in said[1]


def test_a_worker_that_starts_on_a_broken_renewal_waits_for_a_good_one(tmp_path: Path) -> None:
    with secure_service(tmp_path, AUTHORITY.make()) as service:
        (tmp_path / "tls.key").write_bytes(b"")
        (pid,) = service.worker_pids()
        os.kill(pid, 9)
        wait_until(lambda: any("accepts nothing until" in line for line in service.output))
        good = AUTHORITY.make()
        good.write(tmp_path)
        wait_until(lambda: service.call("GET", "/health/ready").status == 200)
        assert shown_serial(service) == serial_of(good)


def test_stopping_answers_what_is_under_way_and_handshakes(tmp_path: Path) -> None:
    with secure_service(tmp_path, AUTHORITY.make(), "--idle-grace", "5s") as service:
        name = running(service)
        plain = socket.create_connection(("127.0.0.1", service.port), timeout=60)
        assert service.tls is not None
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        shaking = service.tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            shaking.do_handshake()
        plain.sendall(outgoing.read())
        incoming.write(plain.recv(65_536))
        with connected(service) as kept, plain:
            stopping = threading.Thread(target=service.stop)
            stopping.start()
            kept.sendall(post(f"/v1/experiments/{name}/decide", {}))
            assert answer_from(kept)[0] == 200
            wait_until(lambda: not accepts(service.port))
            while True:
                try:
                    shaking.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65_536))
            shaking.write(post(f"/v1/experiments/{name}/decide", {}))
            plain.sendall(outgoing.read())
            received = b""
            while piece := plain.recv(65_536):
                incoming.write(piece)
                with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                    received += shaking.read(65_536)
            assert received.startswith(b"HTTP/1.1 200 ")
            stopping.join(60)
    assert service.process.returncode == 0


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True
