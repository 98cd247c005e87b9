"""Private store, for a service that names none: a real Redis or Valkey server for each data directory.

The data directory holds `store.sock` (the only address the server listens on), `store.lock`, `store.log` and `store/`
(the append-only files). Two servers on one directory would silently write the same files. So the server inherits the
locked descriptor of `store.lock`, and the kernel releases the lock when the last of its processes has ended, even by a
crash.
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

RESTORING = "restoring"
"""File in a data directory whose restore has not finished."""
TIMEOUT_S = 30.0
STOP_GRACE_S = 5.0
PROBE_TIMEOUT_S = 1.0
POLL_S = 0.01
LOG_BYTES = 1 << 20
MAX_SOCKET_PATH_BYTES = 103
"""A unix socket's address has room for 104 bytes on macOS and 108 on Linux, the closing zero included."""
PEER = struct.Struct("=iII")
"""Process, user and group of the listening process, as Linux reports them."""
PROCESS_ID = re.compile(rb"\r\nprocess_id:(\d+)\r\n")


class PrivateServer:
    """Running server of one data directory, started by this process or adopted from another.

    A server ends with the process that started it. `ensure()` starts or adopts one again after a crash, or after the
    owner of an adopted server has ended. Calls block; any thread may make them, one at a time.
    """

    def __init__(self, data_dir: Path, binary: Path | None = None, *, restores: bool = False) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self._binary = binary
        self._restores = restores
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._socket = self.data_dir / "store.sock"
        self._log = self.data_dir / "store.log"

    @classmethod
    def start_or_adopt(
        cls,
        data_dir: Path,
        *,
        timeout_s: float = TIMEOUT_S,
        binary: Path | None = None,
        restores: bool = False,
    ) -> PrivateServer:
        """Returns when a server answers on the directory, which is created (0700) if it is missing.

        `timeout_s` includes the time to load the append-only files. `binary` overrides the search for a server.
        Raises UsageError where no server is installed, the directory cannot be used, or a restore into it has not
        finished, unless this one `restores`; and StoreUnavailable where the server ends or does not answer in time.
        """
        server = cls(data_dir, binary, restores=restores)
        server._check_directory()
        server._start_or_adopt(timeout_s)
        return server

    @property
    def url(self) -> str:
        """URL of the server, as `parse_store_url` reads it."""
        return f"unix://{quote(os.fsencode(self._socket))}"

    @property
    def owned(self) -> bool:
        """Whether this process started the running server, which then ends with it."""
        return self._keeper is not None and self._keeper.is_alive()

    @property
    def pid(self) -> int:
        """Process id of the server; 0 where none answers."""
        if self._process is not None and self.owned:
            return self._process.pid
        return _ask(self._socket)[1]

    def alive(self) -> bool:
        """Whether a server listens, even one that is busy, loading or stopped by a signal."""
        return _connects(self._socket)

    def ensure(self, *, timeout_s: float = TIMEOUT_S) -> bool:
        """Starts or adopts a server if the last one has ended; returns whether it had. Raises as `start_or_adopt`."""
        if self.alive():
            return False
        self._start_or_adopt(timeout_s)
        return True

    def stop(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """Ends a server that this process started (SIGTERM, after `grace_s` SIGKILL); leaves an adopted one alone."""
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
        if not self._restores and os.path.lexists(self.data_dir / RESTORING):
            raise UsageError(
                f"A restore into {self.data_dir} has not finished: run `bandit-serve restore` with that backup "
                "again, or remove the directory."
            )
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
        """Opens and locks the lock file; None where a server, or a process about to start one, holds the lock."""
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
        """Starts the server, which inherits the lock; returns the position in the log file where its output begins."""
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
                    f"({self._last_line(log_start)}): see {self._log}."
                )
            if time.monotonic() > deadline:
                self.stop()
                raise StoreUnavailable(
                    f"The private store {answer.value} after {timeout_s:g} s and was ended: "
                    f"allow it more time, or see {self._log}."
                )
            time.sleep(POLL_S)

    def _last_line(self, log_start: int) -> str:
        with open(self._log, "rb") as log:
            log.seek(max(log_start, log.seek(0, os.SEEK_END) - 4096))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip().rstrip(".") if lines else "without a message"

    def _stop_at_exit(self, starter: int) -> None:
        if os.getpid() == starter:
            self.stop()


def server_command(binary: Path, data_dir: Path) -> list[str]:
    """Command line of the private server, with options that Redis 6.2 and later and Valkey all know."""
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
        # The append-only files begin with commands, not with a snapshot: Redis cannot read Valkey's snapshots,
        # and the next start may choose the other server.
        "aof-use-rdb-preamble": "no",
    }
    return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]


class _Answer(enum.Enum):
    """Result of a PING; the value completes a sentence that begins with "the store"."""

    NOBODY = "does not listen"
    SILENT = "does not answer"
    LOADING = "is still reading its append-only files"
    READY = "answers"


def _ask(path: Path) -> tuple[_Answer, int]:
    """Sends a PING; the second value is the server's process id, 0 where it is unknown."""
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
            while not (process_id := PROCESS_ID.search(reply)):
                received = connection.recv(8192)
                if not received:
                    return _Answer.SILENT, 0
                reply += received
        except OSError:
            return _Answer.SILENT, 0
    if reply.startswith(b"+PONG"):
        return _Answer.READY, int(process_id[1])
    return (_Answer.LOADING if reply.startswith(b"-LOADING") else _Answer.SILENT), int(process_id[1])


def _require_own(path: Path, connection: socket.socket) -> None:
    """Raises `UsageError` where another user's server listens, or the socket is a link."""
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
