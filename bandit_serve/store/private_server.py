"""The store when none is named: a real server of our own, one for each data directory.

In the data directory: `store.sock` (the server listens here and nowhere else), `store.lock`, `store.log` and
`store/` (its append-only files). Two servers on one directory would share the append-only files without a
word, so the server itself holds a lock: the file descriptor of `store.lock` is handed to it, and the kernel
lets go when the last of its processes has ended, however that came.
"""

from __future__ import annotations

import atexit
import enum
import fcntl
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from bandit_serve.base.private_files import open_own, own_folder
from bandit_serve.errors import StoreUnavailable, UsageError
from bandit_serve.processes.child import start_child
from bandit_serve.store.binary import find_server

TIMEOUT_S = 30.0
STOP_GRACE_S = 5.0
PROBE_TIMEOUT_S = 1.0
POLL_S = 0.01
LOG_BYTES = 1 << 20
MAX_SOCKET_PATH_BYTES = 103
"""Bytes; the address of a unix socket holds 104 on macOS and 108 on Linux, the closing zero included."""
PEER = struct.Struct("=iII")
"""Process, user and group, as Linux tells them of who listens."""
PROCESS_ID = re.compile(rb"\r\nprocess_id:(\d+)\r\n")


class PrivateServer:
    """A running server for one data directory, started by this process or adopted from another.

    A server that this process started ends with this process. `ensure()` brings one back after a crash; an
    adopter calls it too, for the server that it adopted leaves with its owner. The calls block; any thread
    may make them, one at a time.
    """

    def __init__(self, data_dir: Path, binary: Path | None = None) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._socket = self.data_dir / "store.sock"
        self._log = self.data_dir / "store.log"

    @classmethod
    def start_or_adopt(
        cls, data_dir: Path, *, timeout_s: float = TIMEOUT_S, binary: Path | None = None
    ) -> PrivateServer:
        """Returns when a server answers on the directory, which is made (0700) if it is missing.

        `timeout_s` includes the reading of the append-only files. `binary` overrides the search for a server.
        Raises UsageError where no server is installed or the directory cannot be used, and StoreUnavailable
        where the server ends or does not answer in time.
        """
        server = cls(data_dir, binary)
        server._check_directory()
        server._start_or_adopt(timeout_s)
        return server

    @property
    def url(self) -> str:
        return f"unix://{quote(os.fsencode(self._socket))}"

    @property
    def owned(self) -> bool:
        """Whether this process started the server that runs, which then ends with this process."""
        return self._keeper is not None and self._keeper.is_alive()

    @property
    def pid(self) -> int:
        """The server's process id, 0 where there is none or it does not answer."""
        if self._process is not None and self.owned:
            return self._process.pid
        return _ask(self._socket)[1]

    def alive(self) -> bool:
        """Whether a server listens, be it busy, loading or stopped."""
        return _connects(self._socket)

    def ensure(self, *, timeout_s: float = TIMEOUT_S) -> bool:
        """Starts or adopts a server again if the last one is gone; True if it was. Raises as at first."""
        if self.alive():
            return False
        self._start_or_adopt(timeout_s)
        return True

    def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """Ends a server that this process started (SIGTERM, after `grace_s` SIGKILL), not an adopted one."""
        if self._process is None or self._keeper is None:
            return
        self._process.terminate()
        self._keeper.join(grace_s)
        if self._keeper.is_alive():
            self._process.kill()
            self._keeper.join()
        self._process = self._keeper = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check_directory(self) -> None:
        length = len(os.fsencode(self._socket))
        if length > MAX_SOCKET_PATH_BYTES:
            raise UsageError(
                f"The data directory's path is too long for a unix socket in it ({length} bytes, "
                f"{MAX_SOCKET_PATH_BYTES} are possible): choose a shorter one with --data."
            )
        own_folder(self.data_dir)
        own_folder(self.data_dir / "store")

    def _unusable(self, error: OSError) -> UsageError:
        return UsageError(
            f"The data directory {self.data_dir} cannot be used ({error.strerror}): "
            "choose another with --data."
        )

    def _start_or_adopt(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            answer, _ = _ask(self._socket)
            if answer is _Answer.READY:
                self._process = self._keeper = None
                return
            if (lock := self._lock()) is not None:
                try:
                    log_start = self._start(lock)
                finally:
                    os.close(lock)
                self._await_ready(log_start, deadline, timeout_s)
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"Another process holds the private store in {self.data_dir}, and it {answer.value} "
                    f"after {timeout_s:g} s: see {self._log}."
                )
            time.sleep(POLL_S)

    def _lock(self) -> int | None:
        """The lock file's descriptor, locked; None where a server, or someone about to start one, has it."""
        try:
            descriptor = open_own(self.data_dir / "store.lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def _start(self, lock: int) -> int:
        """Starts the server, which inherits the lock; returns where in the log file its words begin."""
        command = server_command(self._binary or find_server(), self.data_dir)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_name("store.log.1"))
        with os.fdopen(open_own(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as log:
            log_start = log.tell()
            self._process, self._keeper = start_child(command, output=log.fileno(), pass_fds=(lock,))
        if sys.platform != "linux":
            atexit.register(self._stop_at_exit, os.getpid())
        return log_start

    def _await_ready(self, log_start: int, deadline: float, timeout_s: float) -> None:
        assert self._process is not None
        assert self._keeper is not None
        while (answer := _ask(self._socket)[0]) is not _Answer.READY:
            if not self._keeper.is_alive():
                status = self._process.returncode
                self._process = self._keeper = None
                raise StoreUnavailable(
                    f"The private store ended with status {status} as it started "
                    f"({self._last_words(log_start)}): see {self._log}."
                )
            if time.monotonic() > deadline:
                self.stop()
                raise StoreUnavailable(
                    f"The private store {answer.value} after {timeout_s:g} s and was ended: "
                    f"allow it more time, or see {self._log}."
                )
            time.sleep(POLL_S)

    def _last_words(self, log_start: int) -> str:
        with open(self._log, "rb") as log:
            log.seek(max(log_start, log.seek(0, os.SEEK_END) - 4096))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip().rstrip(".") if lines else "without a word"

    def _stop_at_exit(self, starter: int) -> None:
        if os.getpid() == starter:
            self.stop()


def server_command(binary: Path, data_dir: Path) -> list[str]:
    """How the private server is run; the options are those of Redis 6.2 and later and of Valkey."""
    options = {
        "port": "0",
        "unixsocket": str(data_dir / "store.sock"),
        "unixsocketperm": "700",
        "dir": str(data_dir / "store"),
        "logfile": str(data_dir / "store.log"),
        "daemonize": "no",
        "databases": "1",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        # Commands and not a snapshot at the head of the append-only files: Redis cannot read Valkey's
        # snapshots, and which of the two is found may change between two starts.
        "aof-use-rdb-preamble": "no",
    }
    return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]


class _Answer(enum.Enum):
    """What came of a PING; the value says it after "the store …"."""

    NOBODY = "does not listen"
    SILENT = "does not answer"
    LOADING = "is still reading its append-only files"
    READY = "answers"


def _ask(path: Path) -> tuple[_Answer, int]:
    """Sends a PING; the second value is the server's process id, 0 where it is not known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PROBE_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return _Answer.NOBODY, 0
        except PermissionError as error:
            raise UsageError(
                f"The private store at {path} belongs to another user: choose another directory with --data."
            ) from error
        except OSError:
            return _Answer.SILENT, 0
        _require_own(path, connection)
        reply = b""
        try:
            connection.sendall(b"PING\r\nINFO server\r\n")
            while not (found := PROCESS_ID.search(reply)):
                received = connection.recv(8192)
                if not received:
                    return _Answer.SILENT, 0
                reply += received
        except OSError:
            return _Answer.SILENT, 0
    if reply.startswith(b"+PONG"):
        return _Answer.READY, int(found[1])
    return (_Answer.LOADING if reply.startswith(b"-LOADING") else _Answer.SILENT), int(found[1])


def _require_own(path: Path, connection: socket.socket) -> None:
    """`UsageError` where it is not this user's server that listens, or a link led to it."""
    if path.is_symlink():
        raise UsageError(f"The private store's socket {path} is a symbolic link: remove it.")
    if sys.platform == "linux":
        _, owner, _ = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    else:
        owner = path.lstat().st_uid
    if owner != os.geteuid():
        raise UsageError(
            f"The private store at {path} belongs to another user: choose another directory with --data."
        )


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PROBE_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True
