"""Load of decisions and rewards over real HTTP, with a tally of the acknowledged ones.

Clients run in a thread with an event loop of its own. Each visit is one decision and its reward. A patient client
retries a request that was not answered or was answered with 503. A strict one retries only refused connections, and
counts any other error as a failure.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

ANSWER_S = 20.0
RETRY_S = 0.02
GIVE_UP_S = 60.0


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Refused(Exception):
    """The connection was refused."""


class Dropped(Exception):
    """The connection was made, but the request was not answered."""


class Connection:
    """Client with one HTTP/1.1 connection at a time, kept alive if the service allows it, or one for each request."""

    def __init__(self, host: str, port: int, *, keep_alive: bool, key: str | None = None) -> None:
        self._host, self._port = host, port
        self._key = "" if key is None else f"Authorization: Bearer {key}\r\n"
        self._keep_alive = keep_alive
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def call(self, path: str, body: Any) -> Reply:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        head += f"{self._key}Content-Length: {len(content)}\r\n\r\n"
        if self._writer is None:
            try:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            except OSError as error:
                raise Refused(repr(error)) from None
        try:
            self._writer.write(head.encode() + content)
            async with asyncio.timeout(ANSWER_S):
                reply = await _read_reply(self._reader)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise Dropped(repr(error)) from None
        if not self._keep_alive or reply.headers.get("connection") == "close":
            self.close()
        return reply

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def _read_reply(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    content = await reader.readexactly(int(headers["content-length"]))
    return Reply(int(head[0].split()[1]), headers, json.loads(content))


@dataclass
class Tally:
    """Counts of what the clients saw. Times are of `time.monotonic()`."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    """The reward of each decision whose reward was answered "accepted" or "duplicate"."""
    verdicts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    dropped: int = 0
    failures: list[str] = field(default_factory=list)
    decisions: list[tuple[float, float]] = field(default_factory=list)
    """When each decision was asked for, and how many seconds its answer took."""
    rewards: list[tuple[float, float, Reply]] = field(default_factory=list)
    """The same of each try of a reward, with its answer."""

    def decision_p99_ms(self, since_s: float, until_s: float) -> float:
        took = sorted(seconds for asked, seconds in self.decisions if since_s <= asked <= until_s)
        assert len(took) >= 100, f"only {len(took)} decisions"
        return 1000.0 * took[int(len(took) * 0.99)]


class Load:
    """Runs `clients` clients until the end of the `with` block, where visits under way are finished first.

    Half of the clients keep their connections alive, the others open one for each request. The share `rewarded` of the
    decisions gets a reward, and one reward in ten is sent twice. With `may_be_late`, the answer 410 is no failure. All
    send the `key`, if one is given.
    """

    def __init__(
        self,
        port: int,
        experiment: str,
        *,
        strict: bool = False,
        clients: int = 8,
        pause_s: float = 0.01,
        seed: int = 0,
        rewarded: float = 1.0,
        may_be_late: bool = False,
        host: str = "127.0.0.1",
        key: str | None = None,
    ) -> None:
        self.port = port
        self.tally = Tally()
        self._experiment = experiment
        self._strict = strict
        self._clients = clients
        self._pause_s = pause_s
        self._seed = seed
        self._rewarded = rewarded
        self._fine = (200, 410) if may_be_late else (200,)
        self._host = host
        self._key = key
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="load")
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def wait_for_visits(self, n: int) -> None:
        """Returns when `n` more visits have been acknowledged."""
        goal = len(self.tally.acknowledged) + n
        until_s = time.monotonic() + GIVE_UP_S
        while len(self.tally.acknowledged) < goal:
            assert self._thread.is_alive(), f"the load ended: {self._error!r}"
            assert time.monotonic() < until_s, f"no {n} visits in {GIVE_UP_S:g} s: {self.tally.statuses}"
            time.sleep(0.005)

    def _work(self) -> None:
        try:
            asyncio.run(self._all_clients())
        except BaseException as error:
            self._error = error

    async def _all_clients(self) -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(self._clients):
                group.create_task(self._client(i))

    async def _client(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        connection = Connection(self._host, self.port, keep_alive=number % 2 == 0, key=self._key)
        visit = 0
        while not self._stopping.is_set():
            unit = f"unit-{number}-{visit}"
            visit += 1
            await self._visit(connection, unit, chance)
            await asyncio.sleep(self._pause_s * chance.uniform(0.5, 1.5))
        connection.close()

    async def _visit(self, connection: Connection, unit: str, chance: random.Random) -> None:
        tally = self.tally
        decide = f"/v1/experiments/{self._experiment}/decide"
        decided = await self._insist(connection, decide, {"unit": unit}, tally.decisions)
        if decided is None or chance.random() >= self._rewarded:
            return
        token = decided.body["decision_id"]
        reward = {"decision_id": token, "value": float(chance.random() < 0.3)}
        for _ in range(2 if chance.random() < 0.1 else 1):
            answered = await self._insist(connection, "/v1/rewards", reward, None)
            if answered is None:
                return
            (verdict,) = answered.body.get("verdicts", ["late"])
            tally.verdicts[verdict] += 1
            if verdict in ("accepted", "duplicate"):
                tally.acknowledged[token] = reward["value"]

    async def _insist(
        self, connection: Connection, path: str, body: Any, took: list[tuple[float, float]] | None
    ) -> Reply | None:
        """Calls until the answer is one that was expected; None when a strict client got no such answer."""
        tally = self.tally
        until_s = time.monotonic() + GIVE_UP_S
        while time.monotonic() < until_s:
            asked = time.monotonic()
            try:
                reply = await connection.call(path, body)
            except Refused:
                tally.refused += 1
            except Dropped as error:
                tally.dropped += 1
                if self._strict:
                    tally.failures.append(f"{path} was dropped: {error}")
                    return None
            else:
                seconds = time.monotonic() - asked
                tally.statuses[reply.status] += 1
                if took is None:
                    tally.rewards.append((asked, seconds, reply))
                elif reply.status == 200:
                    took.append((asked, seconds))
                if reply.status in self._fine:
                    return reply
                if reply.status != 503 or self._strict:
                    tally.failures.append(f"{path} answered {reply.status}: {reply.body}")
                    return None
            await asyncio.sleep(RETRY_S)
        tally.failures.append(f"{path} got no answer in {GIVE_UP_S:g} s")
        return None


class ReconnectingClients:
    """Threads that connect, ask for /health/live and close, over and over, so that some connect at every moment.

    Refused connections are retried; `dropped` lists errors after a connection was made.
    """

    THREADS = 16

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.refused = 0
        self.dropped: list[str] = []
        self._port = port
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name="reconnecting-client") for _ in range(self.THREADS)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, n: int) -> None:
        """Returns when `n` more requests have been answered."""
        goal = self.answered + n
        until_s = time.monotonic() + GIVE_UP_S
        while self.answered < goal:
            assert time.monotonic() < until_s, f"no {n} answers in {GIVE_UP_S:g} s"
            time.sleep(0.005)

    def _work(self) -> None:
        while not self._stopping:
            with socket.socket() as connection:
                connection.settimeout(ANSWER_S)
                try:
                    connection.connect(("127.0.0.1", self._port))
                except ConnectionRefusedError:
                    self.refused += 1
                    time.sleep(RETRY_S)
                    continue
                self._ask(connection)

    def _ask(self, connection: socket.socket) -> None:
        reply = b""
        try:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            while received := connection.recv(4_096):
                reply += received
        except OSError as error:
            self.dropped.append(repr(error))
            return
        if reply.startswith(b"HTTP/1.1 200 "):
            self.answered += 1
        else:
            self.dropped.append(f"answered {reply[:40]!r}")
