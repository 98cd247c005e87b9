"""Servers of other projects that answer a JSON body with one of a prediction's size, by each one's own quick start.

    python benchmarks/peer_servers.py NAME PORT [REDIS_URL]

Each runs with one worker, without logs of requests, and does nothing but read the body and answer: what it costs is the
framework. `fastapi_redis` counts in Redis as well, one round trip a request, as a bandit of one's own would.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
ANSWER = {
    "decision_id": "x" * 92,
    "experiment": "bench",
    "arm": "control",
    "propensity": 0.5123456789,
    "model": {"id": "ranker", "version": "v1"},
    "payload": None,
    "prediction": 3.5123456789,
}


def fastapi(port: int, _: str) -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Asked(BaseModel):
        user_id: str
        item_id: str

    app = FastAPI()

    async def predict(asked: Asked) -> dict[str, Any]:
        return ANSWER

    predict.__annotations__["asked"] = Asked
    app.post("/predict")(predict)
    uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)


def fastapi_redis(port: int, store: str) -> None:
    import redis.asyncio
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Asked(BaseModel):
        user_id: str
        item_id: str

    app, client = FastAPI(), redis.asyncio.Redis.from_url(store)

    async def predict(asked: Asked) -> dict[str, Any]:
        await client.hincrby("arms", "control", 1)
        return ANSWER

    predict.__annotations__["asked"] = Asked
    app.post("/predict")(predict)
    uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)


LITSERVE = """
import litserve as ls
ANSWER = {answer!r}
class Echo(ls.LitAPI):
    def setup(self, device): ...
    def decode_request(self, request): return request
    def predict(self, x): return ANSWER
    def encode_response(self, output): return output
if __name__ == "__main__":
    server = ls.LitServer(Echo(), accelerator="cpu", workers_per_device=1)
    server.run(host={host!r}, port={port}, num_api_servers=1, log_level="warning", generate_client_file=False)
"""


def litserve(port: int, _: str) -> None:
    Path("server.py").write_text(LITSERVE.format(answer=ANSWER, host=HOST, port=port))
    os.execv(sys.executable, [sys.executable, "server.py"])


BENTO = """
import bentoml
from typing import Any
ANSWER = {answer!r}
@bentoml.service(workers=1, logging={{"access": {{"enabled": False}}}})
class Echo:
    @bentoml.api
    async def predict(self, user_id: str, item_id: str) -> dict[str, Any]:
        return ANSWER
"""


def bentoml(port: int, _: str) -> None:
    Path("service.py").write_text(BENTO.format(answer=ANSWER))
    command = [sys.executable, "-m", "bentoml", "serve", "service:Echo", "--host", HOST, "--port", str(port)]
    os.execv(sys.executable, command)


MLSERVER = """
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
class Echo(MLModel):
    async def load(self): return True
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return InferenceResponse(model_name=self.name, outputs=[
            ResponseOutput(name="prediction", shape=[1], datatype="FP64", data=[3.5123456789])])
"""


def mlserver(port: int, _: str) -> None:
    directory = Path.cwd()
    (directory / "echo.py").write_text(MLSERVER)
    (directory / "model-settings.json").write_text(
        json.dumps({"name": "echo", "implementation": "echo.Echo"})
    )
    settings = {
        "host": HOST,
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "debug": False,
    }
    (directory / "settings.json").write_text(json.dumps(settings))
    sys.path.insert(0, str(directory))
    from mlserver.cli import main

    sys.argv = ["mlserver", "start", str(directory)]
    main()


def ray_serve(port: int, _: str) -> None:
    import ray
    from ray import serve

    ray.init(include_dashboard=False, num_cpus=2, log_to_driver=False)
    serve.start(http_options={"host": HOST, "port": port})

    @serve.deployment(num_replicas=1, max_ongoing_requests=100)
    class Echo:
        async def __call__(self, request: Any) -> Any:
            await request.json()
            return ANSWER

    serve.run(Echo.bind(), route_prefix="/predict", blocking=True)


SERVERS: dict[str, tuple[Callable[[int, str], None], str]] = {
    "fastapi": (fastapi, "/predict"),
    "fastapi_redis": (fastapi_redis, "/predict"),
    "litserve": (litserve, "/predict"),
    "bentoml": (bentoml, "/predict"),
    "mlserver": (mlserver, "/v2/models/echo/infer"),
    "ray_serve": (ray_serve, "/predict"),
}
"""Servers by name, each with its path."""

if __name__ == "__main__":
    # This directory has modules with the names of others' packages.
    sys.path.pop(0)
    serve_it, _path = SERVERS[sys.argv[1]]
    serve_it(int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
