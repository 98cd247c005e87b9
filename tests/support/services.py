"""Real services for tests: `bandit-serve serve` as a process of its own, on a free port."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

READY = re.compile(r"bandit-serve is ready on (https?://\S+) with")
START_S = 120.0
ROOT = Path(__file__).resolve().parents[2]


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


class ThrowawayService:
    """Service in a `with` block. `flags` go to `bandit-serve serve`; without `store` it has a private one in `data`.

    checkout: another one than this, whose kernels are built.
    """

    def __init__(
        self,
        data: Path,
        *flags: str,
        store: str | None = None,
        workers: int = 1,
        port: int = 0,
        checkout: Path = ROOT,
    ) -> None:
        self.data = data
        self._flags = flags
        self._store = store
        self._workers = workers
        self._port = port
        self._checkout = checkout
        self.url = ""
        self.tls: ssl.SSLContext | None = None
        """What the calls trust, for a service with a certificate."""
        self.output: list[str] = []

    def start(self) -> Self:
        command = [
            sys.executable,
            "-P",
            "-m",
            "bandit_serve",
            "serve",
            "--data",
            str(self.data),
        ]
        command += ["--port", str(self._port), "--workers", str(self._workers), *self._flags]
        if self._store is not None:
            command += ["--store", self._store]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=clean_environment(self._checkout),
        )
        ready = threading.Event()
        self.url = ""
        self._reader = threading.Thread(target=self._read, args=(self.process, ready), daemon=True)
        self._reader.start()
        if not ready.wait(START_S) or not self.url:
            self.kill()
            raise AssertionError("the service did not start:\n" + "".join(self.output))
        self._port = int(self.url.rpartition(":")[2])
        return self

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.output.append(line)
                match = READY.match(line)
                if match:
                    self.url = match[1]
                    ready.set()
        ready.set()

    @property
    def port(self) -> int:
        return self._port

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> Answer:
        """Sends one request; `body` is sent as JSON unless it is bytes."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=content,
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout_s, context=self.tls) as response:
                return _answer(response.status, response.read(), response.headers)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error.read(), error.headers)

    def worker_pids(self) -> list[int]:
        """Process ids of the running workers, which the supervisor has forked."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [int(pid) for path in children for pid in path.read_text().split()]
        return [pid for pid in pids if _command(pid) == _command(self.process.pid) != b""]

    def peak_bytes(self) -> int:
        """Most memory that a worker has had at once."""
        peaks = [Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2] for pid in self.worker_pids()]
        return max(int(peak.split()[0]) for peak in peaks) * 1024

    def wait_for_workers(self, n: int, timeout_s: float = START_S) -> None:
        """Returns when `n` workers run and the service is ready."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if len(self.worker_pids()) == n and self.call("GET", "/health/ready").status == 200:
                return
            time.sleep(0.02)
        raise AssertionError(f"there are no {n} workers after {timeout_s} s")

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self._reader.join(60)
        return status

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def clean_environment(checkout: Path = ROOT) -> dict[str, str]:
    """Copies this environment without our settings, and puts a checkout first on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BANDIT_SERVE_")}
    paths = [str(checkout), str(checkout / "clients" / "python"), environment.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _answer(status: int, body: bytes, headers: Any) -> Answer:
    is_json = "json" in headers.get("Content-Type", "")
    return Answer(status, json.loads(body) if body and is_json else body, dict(headers))


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
