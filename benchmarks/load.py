"""HTTP load on one address, by wrk if it is installed, else by a closed loop of asyncio connections."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import latency

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
    measured = latency.measure(url, bodies, content_type, seconds, connections=connections)
    return Load(round(measured.per_s * seconds), measured.errors, seconds)


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
