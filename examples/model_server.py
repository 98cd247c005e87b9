"""Model server that speaks the Open Inference protocol, for one model: `factor` times the input `x`.

python examples/model_server.py --port 9001 --name double --factor 2
"""

import argparse
import socket

from aiohttp import web


def make_app(name: str, factor: float) -> web.Application:
    async def ready(_: web.Request) -> web.Response:
        return web.json_response({"ready": True})

    async def metadata(_: web.Request) -> web.Response:
        tensors = {"datatype": "FP64", "shape": [-1]}
        return web.json_response(
            {
                "name": name,
                "versions": ["1"],
                "platform": "python",
                "inputs": [{"name": "x", **tensors}],
                "outputs": [{"name": "y", **tensors}],
            }
        )

    async def infer(request: web.Request) -> web.Response:
        asked = await request.json()
        (x,) = [tensor["data"] for tensor in asked["inputs"] if tensor["name"] == "x"]
        y = {"name": "y", "datatype": "FP64", "shape": [len(x)], "data": [factor * value for value in x]}
        return web.json_response({"model_name": name, "model_version": "1", "outputs": [y]})

    app = web.Application()
    app.router.add_get("/v2/health/ready", ready)
    app.router.add_get(f"/v2/models/{name}", metadata)
    app.router.add_get(f"/v2/models/{name}/ready", ready)
    app.router.add_post(f"/v2/models/{name}/infer", infer)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="double")
    parser.add_argument("--factor", type=float, default=2.0)
    given = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", given.port))
    print(f"{given.name} is ready on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    web.run_app(make_app(given.name, given.factor), sock=listening, print=None)
