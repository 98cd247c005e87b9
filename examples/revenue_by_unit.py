"""A/B test of a checkout page, with the orders of each user from a file that the shop writes every night.

    bandit-serve serve --port 8000 --data bandit-serve-data    # in another terminal
    python examples/revenue_by_unit.py [--url http://127.0.0.1:8000] [--data bandit-serve-data]

Orders come twice here, as files do: each counts once.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from bandit_serve_client import SyncClient

EXPERIMENT = {
    "id": "checkout",
    "unit": "user",
    "arms": [{"name": "long"}, {"name": "short"}],
    "control": "long",
    "policy": {"kind": "fixed_split", "shares": {"long": 1, "short": 1}},
    "metrics": [{"name": "revenue", "kind": "continuous", "role": "objective"}],
    "attribution": {"window": "7d", "missing": "ignore"},
}


def write_orders(path: Path, arms: dict[str, str]) -> None:
    """Writes the shop's file: users buy up to three times, and pay more on the short page."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["order", "user", "total"])
        for user, arm in arms.items():
            for number in range(random.randint(0, 3)):
                total = random.uniform(10, 60) + (15 if arm == "short" else 0)
                rows.writerow([f"{user}-{number}", user, f"{total:.2f}"])


def main(url: str, data: str) -> None:
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder, SyncClient(url) as client:
        client.experiments.apply(EXPERIMENT)
        client.experiments.start("checkout")
        users = [f"user-{number}" for number in range(1_000)]
        arms = {user: client.decide("checkout", unit=user).arm for user in users}
        orders = Path(folder) / "orders.csv"
        write_orders(orders, arms)
        command = [sys.executable, "-m", "bandit_serve", "rewards", "import", str(orders)]
        options = ["--experiment", "checkout", "--columns", "unit=user,value=total,event_id=order"]
        for _ in range(2):
            subprocess.run([*command, *options, "--data", data], check=True)
        results = client.experiments.results("checkout")
        for arm in results.arms:
            revenue = arm.metrics["revenue"]
            print(f"{arm.name:5} {revenue.n} buyers, {revenue.mean:.2f} each")
        print(results.reason)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    parser.add_argument("--data", default="bandit-serve-data", help="data directory of the service")
    given = parser.parse_args()
    main(given.url, given.data)
