"""Two model servers behind one experiment: the service asks the one that is drawn, and measures both.

python examples/model_server.py --port 9001 --name double --factor 2.0      # each in a terminal of its own
python examples/model_server.py --port 9002 --name triple --factor 3.0
bandit-serve serve --port 8000 --data bandit-serve-data --upstreams http://127.0.0.1:9001,http://127.0.0.1:9002
python examples/upstreams.py [--url http://127.0.0.1:8000]
"""

import argparse
import random

from bandit_serve_client import SyncClient

SERVERS = {"double": "http://127.0.0.1:9001", "triple": "http://127.0.0.1:9002"}
EXPERIMENT = {
    "id": "multipliers",
    "arms": [{"name": name, "model": name, "version": "v1"} for name in SERVERS],
    "policy": {"kind": "thompson", "min_share": 0.05},
    "metrics": [
        {"name": "liked", "kind": "binary", "role": "objective"},
        {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"},
        {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"},
    ],
    "attribution": {"window": "1h", "missing": "ignore"},
}


def main(url: str, servers: dict[str, str]) -> None:
    random.seed(0)
    with SyncClient(url) as client:
        for name, address in servers.items():
            remote = {"url": address, "protocol": "open-inference", "model": name, "timeout": "500ms"}
            client.models.register(name, version="v1", remote=remote)
        client.experiments.apply(EXPERIMENT)
        client.experiments.start("multipliers")
        for visit in range(400):
            x = random.random()
            answer = client.predict("multipliers", unit=f"visitor-{visit}", features={"x": x})
            y = answer.outputs["y"]
            client.reward(answer.decision_id, float(random.random() < y / 3))
        results = client.experiments.results("multipliers")
        for arm in results.arms:
            liked, latency = arm.metrics["liked"], arm.metrics["latency_ms"]
            print(f"{arm.name}: {liked.n} answers, {liked.mean:.0%} liked, {latency.mean:.1f} ms")
        print(results.reason)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    for name, address in SERVERS.items():
        parser.add_argument(f"--{name}", default=address, help=f"of the model server {name}")
    given = vars(parser.parse_args())
    main(given["url"], {name: given[name] for name in SERVERS})
