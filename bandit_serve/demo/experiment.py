"""Experiment of the demo, whose arms are recommenders, and a client for the routes that it needs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from bandit_serve.demo.recommender import Recommender
from bandit_serve.errors import BanditServeError

TIMEOUT_S = 30.0
TRIES = 5
JSON = {"Content-Type": "application/json"}


class Http:
    """At most `connections` at once, kept alive. Answers are decoded JSON; anything but 2xx is an error."""

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
        """A 503 is tried again when the service says so: a reward counts once however often it is sent."""
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


MODEL = "recommender"
METRIC = "liked"
MIN_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class DemoExperiment:
    """A running experiment. `versions` are those of MODEL, one an arm, in the order of the arms."""

    http: Http
    name: str
    arms: tuple[str, ...]
    versions: tuple[str, ...]

    @classmethod
    async def start(cls, http: Http, recommenders: Sequence[Recommender]) -> DemoExperiment:
        versions = tuple([await _register(http, recommender) for recommender in recommenders])
        arms = tuple(recommender.arm for recommender in recommenders)
        name = await _free_name(http)
        await http.post("/v1/experiments", _experiment(name, arms, versions))
        await http.post(f"/v1/experiments/{name}/start")
        return cls(http, name, arms, versions)

    async def results(self) -> Any:
        """As `GET …/results` gives them; they cover every reward that was acknowledged."""
        return await self.http.get(f"/v1/experiments/{self.name}/results")


async def _register(http: Http, recommender: Recommender) -> str:
    with tempfile.TemporaryDirectory(prefix="bandit-serve-") as folder:
        path = Path(folder) / "model.safetensors"
        recommender.model.save(path)
        metadata = {"metadata": {"arm": recommender.arm, "about": recommender.about}}
        registered = await http.upload(f"/v1/models/{MODEL}/versions", metadata, path.read_bytes())
    return str(registered["version"])


async def _free_name(http: Http) -> str:
    """`demo`, or where there were demos before the first of `demo-2`, `demo-3`, … that is free."""
    taken = {experiment["id"] for experiment in (await http.get("/v1/experiments"))["experiments"]}
    return next(
        name for n in range(1, len(taken) + 2) if (name := "demo" if n == 1 else f"demo-{n}") not in taken
    )


def _experiment(name: str, arms: tuple[str, ...], versions: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id": name,
        "arms": [
            {"name": arm, "model": MODEL, "version": version}
            for arm, version in zip(arms, versions, strict=True)
        ],
        "control": arms[0],
        "unit": "request",
        "policy": {"kind": "thompson", "min_share": MIN_SHARE},
        "metrics": [{"name": METRIC, "kind": "binary", "goal": "maximize", "role": "objective"}],
        # Every visit sends its reward, a 0 too, and at once: none is missing, so none is to be waited for.
        "attribution": {"window": "1h", "missing": "ignore"},
    }
