"""Example of the page on upstreams, run as it is written but for its ports."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from documents import Document
from services import ThrowawayService, clean_environment
from stores import wait_until

WRITTEN = ("127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:8000")


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_two_model_servers_and_a_bandit(tmp_path: Path) -> None:
    server, start, calls = (
        block.text for block in Document("docs/upstreams.md").blocks if block.language == "sh"
    )
    ports = free_ports(3)
    *of_models, of_service = ports
    for written, port in zip(WRITTEN, ports, strict=True):
        start, calls = (text.replace(written, f"127.0.0.1:{port}") for text in (start, calls))
    first, second = of_models
    start = start.replace(" 9001 ", f" {first} ").replace(" 9002 ", f" {second} ")
    calls = calls.replace("127.0.0.1:900'$version'", f"127.0.0.1:'$(( version == 1 ? {first} : {second} ))'")
    subprocess.run(["bash", "-euc", server], cwd=tmp_path, check=True)
    *commands, serve = start.splitlines()
    models = []
    try:
        for command in commands:
            words = shlex.split(command.removesuffix(" &"))
            assert words[0] == "python"
            models.append(
                subprocess.Popen(
                    [sys.executable, *words[1:]], cwd=tmp_path, stdout=subprocess.PIPE, text=True
                )
            )
        for port in of_models:
            wait_until(lambda port=port: answers(port))
        flags = shlex.split(serve)[2:]
        with ThrowawayService(tmp_path / "data", *flags, port=of_service):
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", calls],
                env=clean_environment(),
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout[done.stdout.rindex('{"decision_id"') :])
        assert answer["prediction"] == {"now": 0.2, "new": 0.6}[answer["arm"]]
    finally:
        for process in models:
            process.kill()
        printed = [process.communicate()[0] for process in models]
    assert "{'months': 14.0, 'plan': 'basic'}" in "".join(printed)
