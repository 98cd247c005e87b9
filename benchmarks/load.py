"""HTTP load on one address, by wrk if it is installed, else by a closed loop of asyncio connections."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

WRK = """
local bodies, next_body = {{}}, 0
local function byte(hex) return string.char(tonumber(hex, 16)) end
for line in io.lines({bodies!r}) do bodies[#bodies + 1] = (line:gsub('%x%x', byte)) end
wrk.method = 'POST'
wrk.headers['Content-Type'] = {content_type!r}
request = function()
  next_body = next_body % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[next_body])
end
"""


class Load(NamedTuple):
    requests: int
    errors: int
    seconds: float


def run(
    url: str, bodies: Sequence[bytes], *, content_type: str, seconds: float, connections: int = 32
) -> Load:
    """POSTs the bodies in turn over kept-alive connections. Each sends its next request after the answer."""
    if shutil.which("wrk"):
        return _wrk(url, bodies, content_type, seconds, connections)
    return asyncio.run(_loop(url, bodies, content_type, seconds, connections))


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "asyncio client"


def _wrk(url: str, bodies: Sequence[bytes], content_type: str, seconds: float, connections: int) -> Load:
    with tempfile.TemporaryDirectory() as directory:
        lines, script = Path(directory, "bodies"), Path(directory, "load.lua")
        lines.write_text("".join(f"{body.hex()}\n" for body in bodies))
        script.write_text(WRK.format(bodies=str(lines), content_type=content_type))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{round(seconds)}s", "-s", str(script), url]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    total = re.search(r"(\d+) requests in ([\d.]+)(m?s)", output)
    assert total is not None, output
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    errors = (int(refused[1]) if refused else 0) + (sum(map(int, broken.groups())) if broken else 0)
    return Load(int(total[1]), errors, float(total[2]) * (0.001 if total[3] == "ms" else 1.0))


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Sequence[bytes], start: int, stride: int) -> None:
        self._requests, self._next, self._stride = requests, start, stride
        self._received = b""
        self.answered = self.errors = 0
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += self._stride

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or len(rest) < int(length[1]):
            return
        self._received = b""
        self.answered += 1
        self.errors += not head.startswith(b"HTTP/1.1 2")
        if self.open:
            self._send()


async def _loop(
    url: str, bodies: Sequence[bytes], content_type: str, seconds: float, connections: int
) -> Load:
    address = urlsplit(url)
    head = f"POST {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: {content_type}\r\n"
    requests = [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]
    loop = asyncio.get_running_loop()
    clients = []
    started = time.perf_counter()
    for start in range(connections):
        _, client = await loop.create_connection(
            lambda start=start: _Connection(requests, start, connections), address.hostname, address.port
        )
        clients.append(client)
    await asyncio.sleep(seconds)
    for client in clients:
        client.open = False
    elapsed = time.perf_counter() - started
    return Load(sum(c.answered for c in clients), sum(c.errors for c in clients), elapsed)
