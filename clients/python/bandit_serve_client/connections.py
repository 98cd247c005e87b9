"""Connections that are kept alive, for threads."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
import time

from bandit_serve_client.attempts import left_s
from bandit_serve_client.errors import ClientError, Closed, NoAnswer, NotConnected, TimedOut
from bandit_serve_client.forks import forget_in_children
from bandit_serve_client.http import Answer, Exchange, Origin, Request

CHUNK_BYTES = 2**16
MAX_IDLE_S = 30.0
"""Below what services and proxies wait before they close: a connection that closes as it is used may eat a call."""
ALL_IN_USE = "All connections were in use until the time of the call was over."


# One system call instead of the four of epoll, where it is to be had.
Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def has_input(descriptor: int) -> bool:
    """Return whether there is something to be read, be it the end."""
    with Selector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(0))


class Connection:
    """One connection, and since when it is idle (monotonic time)."""

    def __init__(self, origin: Origin, until_s: float, context: ssl.SSLContext | None) -> None:
        self._socket = _connected(origin, until_s)
        if context is not None:
            try:
                self._socket.settimeout(left_s(until_s))
                self._socket = context.wrap_socket(self._socket, server_hostname=origin.host)
            except BaseException:
                self._socket.close()
                raise
        self._exchange = Exchange(origin)
        self.idle_since_s = 0.0

    def ask(self, request: Request, until_s: float) -> Answer:
        answer, data = None, self._exchange.send(request)
        try:
            self._socket.settimeout(left_s(until_s))
            self._socket.sendall(data)
            while answer is None:
                self._socket.settimeout(left_s(until_s))
                answer = self._exchange.receive(self._socket.recv(CHUNK_BYTES))
        except TimeoutError:
            raise TimedOut("The call was not answered in time.") from None
        except OSError as error:
            raise NoAnswer(f"The connection broke: {error}.") from None
        return answer

    def is_reusable(self) -> bool:
        return self._exchange.is_reusable()

    def is_quiet(self) -> bool:
        """Return whether the other side has said nothing since, not even goodbye."""
        idle_s = time.monotonic() - self.idle_since_s
        is_decrypted = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
        return idle_s <= MAX_IDLE_S and not is_decrypted and not has_input(self._socket.fileno())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


class Connections:
    """At most `max_connections` at a time, for any number of threads: those that come later wait for one."""

    def __init__(
        self,
        origin: Origin,
        *,
        connect_timeout_s: float,
        max_connections: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._origin = origin
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._context = ssl_context or ssl.create_default_context() if origin.is_tls else None
        self._closed = False
        self.forget()
        forget_in_children(self)

    def forget(self) -> None:
        """Leaves all connections to the process that this one was forked from."""
        self._idle: list[Connection] = []
        self._places = threading.BoundedSemaphore(self._max_connections)
        self._lock = threading.Lock()

    def ask(self, request: Request, until_s: float) -> Answer:
        """Sends a request and awaits its answer until `until_s`, monotonic time.

        Raises `NotConnected`, `NoAnswer`, `TimedOut`, `UnexpectedAnswer` or `Closed`.
        """
        if not self._places.acquire(timeout=max(until_s - time.monotonic(), 0)):
            raise TimedOut(ALL_IN_USE)
        try:
            connection = self._take_idle() or self._connect(until_s)
            try:
                answer = connection.ask(request, until_s)
            except BaseException:
                connection.close()
                raise
            self._put_back(connection)
            return answer
        finally:
            self._places.release()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take_idle(self) -> Connection | None:
        """Returns the connection that was used last: the others may be closed by the service in the meantime."""
        while True:
            with self._lock:
                if self._closed:
                    raise Closed("The client is closed.")
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()

    def _put_back(self, connection: Connection) -> None:
        """Keeps a connection for the next request, and closes those at the bottom that nobody needed for long."""
        closed = [connection]
        if connection.is_reusable():
            connection.idle_since_s = now_s = time.monotonic()
            with self._lock:
                if not self._closed:
                    kept = [each for each in self._idle if now_s - each.idle_since_s <= MAX_IDLE_S]
                    closed = self._idle[: len(self._idle) - len(kept)]
                    self._idle = [*kept, connection]
        for each in closed:
            each.close()

    def _connect(self, until_s: float) -> Connection:
        until_s = min(until_s, time.monotonic() + self._connect_timeout_s)
        try:
            return Connection(self._origin, until_s, self._context)
        except ClientError as error:
            raise NotConnected(f"No connection to {self._origin} in time.") from error
        except OSError as error:
            raise NotConnected(f"No connection to {self._origin}: {error}.") from None


def _connected(origin: Origin, until_s: float) -> socket.socket:
    """Connects to the first address that answers. The look-up of the name has the resolver's time-outs."""
    failure: OSError = OSError("the name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        origin.host, origin.port, type=socket.SOCK_STREAM
    ):
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.settimeout(left_s(until_s))
            connecting.connect(address)
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connecting.close()
            failure = error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise failure
