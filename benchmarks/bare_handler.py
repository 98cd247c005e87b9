"""Yardstick: a plain aiohttp handler that decodes and encodes as much as the service, and does nothing else.

python benchmarks/bare_handler.py PORT RESPONSE_BYTES
"""

from __future__ import annotations

import asyncio
import sys

import msgspec
import uvloop
from aiohttp import web


class Wish(msgspec.Struct):
    unit: str | None = None
    user_id: str | None = None
    item_id: str | None = None
    decision_id: str | None = None
    value: float | None = None


class Reply(msgspec.Struct):
    decision_id: str
    experiment: str
    propensity: float


async def run(port: int, size: int) -> None:
    decode = msgspec.json.Decoder(Wish).decode
    encode = msgspec.json.Encoder().encode
    empty = len(encode(Reply("", "bench", 0.123456789)))
    token = "x" * max(0, size - empty)

    async def handler(request: web.Request) -> web.Response:
        decode(await request.read())
        body = encode(Reply(token, "bench", 0.123456789))
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/bare", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), int(sys.argv[2])))
