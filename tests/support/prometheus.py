"""Prometheus for tests: a real one, with the configuration of `deploy/`, that scrapes a service of the test."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml
from documents import ROOT
from services import ThrowawayService
from stores import wait_until

DEPLOYED = ROOT / "deploy" / "prometheus"


class ThrowawayPrometheus:
    """Prometheus in a `with` block that scrapes a service with TLS each second.

    key: one of the scope `read`. authority: the certificate that signed the service's, PEM. The rules are those of
    `deploy/prometheus/alerts.yaml`.
    """

    def __init__(self, service: ThrowawayService, key: str, authority: bytes) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            pytest.skip("prometheus is not installed")
        self._folder = Path(tempfile.mkdtemp(prefix="prometheus-"))
        (self._folder / "key").write_text(key)
        (self._folder / "ca.pem").write_bytes(authority)
        config = yaml.safe_load((DEPLOYED / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOYED / each) for each in config["rule_files"]]
        (job,) = config["scrape_configs"]
        job["scheme"] = "https"
        job["tls_config"] = {"ca_file": str(self._folder / "ca.pem")}
        job["authorization"]["credentials_file"] = str(self._folder / "key")
        job["static_configs"] = [{"targets": [f"127.0.0.1:{service.port}"]}]
        (self._folder / "config.yaml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._command = [
            binary,
            f"--config.file={self._folder / 'config.yaml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]

    def ask(self, path: str, **parameters: str) -> Any:
        """Data of an answer of the HTTP API; raises `AssertionError` with what Prometheus says of a wrong question."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {json.load(error)['error']}") from None

    def values(self, expression: str) -> list[float]:
        """Values of an expression now, one for each of its series."""
        found = self.ask("query", query=expression)
        assert found["resultType"] == "vector", expression
        return [float(each["value"][1]) for each in found["result"]]

    def _scrapes(self) -> bool:
        try:
            (target,) = self.ask("targets")["activeTargets"]
        except (OSError, ValueError):
            assert self._process.poll() is None, (self._folder / "log").read_text()
            return False
        return bool(target["health"] == "up")

    def __enter__(self) -> Self:
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_until(self._scrapes)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait(60)
        shutil.rmtree(self._folder)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
