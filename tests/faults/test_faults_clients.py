"""Clients that vanish, stall or never read: others are not affected, and their rewards count once or not at all."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from consistency_checks import assert_counted, make_experiment, private_store
from load import Load
from services import ThrowawayService
from stores import wait_until

DRAIN_S = 1.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: close with a reset instead of a farewell."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    flags = ("--body-timeout", "500ms", "--drain", f"{DRAIN_S:g}s")
    with ThrowawayService(tmp_path, *flags) as running:
        yield running


def connect(service: ThrowawayService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=60)


def post(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def test_rewards_of_clients_that_vanish_count_once(service: ThrowawayService) -> None:
    make_experiment(service, "vanishing")
    with Load(service.port, "vanishing", strict=True) as load:
        for i in range(60):
            decided = service.call("POST", "/v1/experiments/vanishing/decide", {"unit": f"v{i}"})
            reward = {"decision_id": decided.body["decision_id"], "value": 1.0}
            whole = post("/v1/rewards", reward)
            sent = whole[: (len(whole) // 4, len(whole) - 1, len(whole))[i % 3]]
            with connect(service) as connection:
                connection.sendall(sent)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            # Whatever became of the first try, the second is the same reward.
            answered = service.call("POST", "/v1/rewards", reward)
            assert answered.body["verdicts"][0] in ("accepted", "duplicate")
            load.tally.acknowledged[reward["decision_id"]] = 1.0
        load.wait_for_visits(50)
    with private_store(service) as client:
        assert_counted(service, client, "vanishing", load.tally)


def test_half_a_body_is_answered_in_time(service: ThrowawayService) -> None:
    with connect(service) as connection:
        connection.sendall(post("/v1/rewards", {"decision_id": "x", "value": 1.0})[:-3])
        assert connection.recv(4_096).startswith(b"HTTP/1.1 408 ")


def test_clients_that_never_read_hold_up_nobody(service: ThrowawayService) -> None:
    make_experiment(service, "unread")
    batch = post("/v1/experiments/unread/decide/batch", {"units": [f"u{i}" for i in range(3_000)]})
    stalled = [connect(service) for _ in range(8)]
    try:
        with Load(service.port, "unread", strict=True) as load:
            for connection in stalled:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                connection.setblocking(False)

            def all_stalled() -> bool:
                return sum(_sends_nothing_more(connection, batch) for connection in stalled) == len(stalled)

            wait_until(all_stalled)
            load.wait_for_visits(200)
        assert not load.tally.failures, load.tally.failures[:5]
        started_s = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started_s < DRAIN_S + 6.0
    finally:
        for connection in stalled:
            connection.close()


def _sends_nothing_more(connection: socket.socket, batch: bytes) -> bool:
    """Whether nothing more can be sent: the buffers are full, or the service has closed the connection."""
    try:
        connection.send(batch)
    except (BlockingIOError, ConnectionError):
        return True
    return False
