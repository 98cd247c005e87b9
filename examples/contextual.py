"""Offers by the time of day and the device: a contextual bandit learns which one is for whom.

bandit-serve serve --port 8000 --data bandit-serve-data    # in another terminal
python examples/contextual.py [--url http://127.0.0.1:8000]
"""

import argparse
import random

from bandit_serve_client import DecisionRequest, Reward, SyncClient

EXPERIMENT = {
    "id": "offers",
    "arms": [{"name": "coffee"}, {"name": "dinner"}],
    "policy": {"kind": "logistic_ts", "min_share": 0.05},
    "metrics": [{"name": "click", "kind": "binary"}],
    "attribution": {"window": "1h", "missing": "ignore"},
    "context": [
        {"name": "hour", "kind": "numeric", "mean": 12, "std": 6},
        {"name": "device", "kind": "categorical", "values": ["ios", "web"]},
    ],
}


def clicks(arm: str, hour: int, device: str) -> bool:
    """Visitor who likes coffee in the morning and dinner in the evening, and clicks more on the phone."""
    chance = 0.5 if (arm == "coffee") == (hour < 12) else 0.1
    return random.random() < chance * (1.4 if device == "ios" else 1.0)


def main(url: str) -> None:
    random.seed(0)
    with SyncClient(url) as client:
        client.experiments.apply(EXPERIMENT)
        client.experiments.start("offers")
        for part in range(20):
            contexts = [
                {"hour": random.randrange(24), "device": random.choice(["ios", "web"])} for _ in range(100)
            ]
            decisions = client.decide_many(
                "offers", [DecisionRequest(context=context) for context in contexts]
            )
            clicked = [
                clicks(decision.arm, context["hour"], context["device"])
                for decision, context in zip(decisions, contexts, strict=True)
            ]
            client.rewards(
                [
                    Reward(decision.decision_id, value)
                    for decision, value in zip(decisions, clicked, strict=True)
                ]
            )
            if part % 5 == 0:
                print(f"after {100 * part + 100:4} visits: {sum(clicked)} clicks of the last 100")
        for hour in (8, 20):
            arms = [client.decide("offers", context={"hour": hour, "device": "web"}).arm for _ in range(50)]
            print(
                f"at {hour:2}:00 coffee for {arms.count('coffee')} of 50, dinner for {arms.count('dinner')}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service")
    main(parser.parse_args().url)
