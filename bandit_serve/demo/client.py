"""HTTP client of the demo."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from bandit_serve.errors import BanditServeError

TIMEOUT_S = 30.0
TRIES = 5
JSON = {"Content-Type": "application/json"}


class Http:
    """Client with at most `connections` kept alive. Answers are decoded JSON; a status other than 2xx raises."""

    def __init__(self, url: str, *, connections: int) -> None:
        self._session = aiohttp.ClientSession(
            url,
            connector=aiohttp.TCPConnector(limit=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, path: str) -> Any:
        return await self._call("GET", path, None, {})

    async def post(self, path: str, body: Any = None) -> Any:
        """Sends a POST; after a 503 tries again when the service says so, as rewards count once anyway."""
        return await self._call("POST", path, None if body is None else msgspec.json.encode(body), JSON)

    async def upload(self, path: str, metadata: dict[str, Any], artifact: bytes) -> Any:
        form = aiohttp.FormData()
        form.add_field("metadata", msgspec.json.encode(metadata), content_type="application/json")
        form.add_field(
            "artifact", artifact, filename="model.safetensors", content_type="application/octet-stream"
        )
        return await self._call("POST", path, form, {})

    async def _call(
        self, method: str, path: str, data: bytes | aiohttp.FormData | None, headers: dict[str, str]
    ) -> Any:
        for left in reversed(range(TRIES)):
            try:
                async with self._session.request(method, path, data=data, headers=headers) as response:
                    content = await response.read()
            except TimeoutError:
                raise BanditServeError(f"{method} {path} was not answered in {TIMEOUT_S:.0f} s.") from None
            except aiohttp.ClientError as error:
                raise BanditServeError(f"{method} {path} failed: {error}.") from None
            if response.status < 300:
                return msgspec.json.decode(content)
            if response.status != 503 or not left:
                break
            await asyncio.sleep(float(response.headers.get("Retry-After", 1)))
        raise BanditServeError(f"{method} {path} answered {response.status}: {_detail(content)}")


def _detail(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return content[:200].decode(errors="replace")
