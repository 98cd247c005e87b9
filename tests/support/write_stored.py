"""Writes the logs and snapshots of this build to a file: `python tests/support/write_stored.py tests/stored/NAME.keys`.

Run it before a change of a fold, an event or a snapshot. test_stored_logs.py reads all such files with the build that
it tests.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from bad_entries import BAD_ENTRIES
from commands import bandit_serve, save_model
from http_calls import running
from services import ThrowawayService
from stored_folds import fold_all
from stored_keys import save
from stores import ThrowawayStore, wait_until

from bandit_serve.store.keys import COMMON, Keys

CONTEXT = [
    {"name": "hour", "kind": "numeric", "mean": 12, "std": 6},
    {"name": "device", "kind": "categorical", "values": ["ios", "web"], "interactions": ["hour"]},
]
BOUNDED = [{"name": "score", "kind": "bounded", "low": -1, "high": 3}]
COUNT = [{"name": "clicks", "kind": "count"}]
REVENUE = [{"name": "paid", "kind": "binary"}, {"name": "revenue", "kind": "continuous", "role": "objective"}]
NONE = {"name": "none"}
"""A metric of which every reward is 0."""
ZERO = {"missing": "zero", "window": "1s"}
FEATURES = [{"name": f"a{k}", "features": [float(k), 1.0 - k]} for k in range(3)]

EXPERIMENTS: dict[str, dict[str, Any]] = {
    "thompson": {
        "policy": {"kind": "thompson", "half_life": "1h", "holdout": 0.1, "warmup": 3},
        "attribution": ZERO,
        "unit": "user",
    },
    "top-two": {"policy": {"kind": "top_two_thompson", "beta": 0.4}, "metrics": COUNT},
    "revenue": {"policy": {"kind": "thompson"}, "metrics": REVENUE},
    "latency": {
        "policy": {"kind": "epsilon_greedy", "epsilon": 0.2, "decay": 0.01},
        "metrics": [{"name": "ms", "kind": "continuous", "goal": "minimize"}],
    },
    "ucb": {"policy": {"kind": "ucb1", "sigma": 0.5}, "metrics": BOUNDED},
    "softmax": {"policy": {"kind": "softmax", "temperature": 0.1}, "attribution": ZERO},
    "exp3": {"policy": {"kind": "exp3", "min_share": 0.05}, "attribution": ZERO},
    "kl-ucb": {
        "policy": {"kind": "kl_ucb", "pseudo_history": {"n": 4, "mean": {"control": 0.2, "challenger": 0.1}}}
    },
    "split": {"policy": {"kind": "fixed_split", "shares": {"control": 3, "challenger": 1}}},
    "lin-ts": {"policy": {"kind": "lin_ts"}, "metrics": BOUNDED, "context": CONTEXT},
    "lin-ucb": {
        "policy": {"kind": "lin_ucb", "half_life": "1h"},
        "arms": FEATURES,
        "context": CONTEXT,
        "attribution": ZERO,
    },
    "logistic": {"policy": {"kind": "logistic_ts"}, "context": CONTEXT, "attribution": ZERO},
    "square": {
        "policy": {"kind": "squarecb", "gamma": 20.0},
        "metrics": [{"name": "n", "kind": "count", "goal": "minimize"}],
        "context": CONTEXT,
    },
    # Utilities of a metric to be minimised: a reward of 0 is one of -0.
    "errors": {"policy": {"kind": "thompson"}, "metrics": [{"kind": "count", "goal": "minimize"} | NONE]},
    "refunds": {
        "policy": {"kind": "softmax"},
        "metrics": [{"kind": "continuous", "goal": "minimize"} | NONE],
    },
    "delays": {
        "policy": {"kind": "lin_ts"},
        "metrics": [{"kind": "continuous", "goal": "minimize"} | NONE],
        "context": CONTEXT,
    },
    "orders": {
        "policy": {"kind": "thompson"},
        "unit": "user",
        "metrics": [COUNT[0] | {"role": "objective"}, {"name": "revenue", "kind": "continuous"}],
        "attribution": ZERO | {"window": "5s"},
    },
    "payments": {"policy": {"kind": "softmax"}, "unit": "user", "metrics": REVENUE},
    "refunded": {
        "policy": {"kind": "lin_ts"},
        "metrics": REVENUE,
        "context": CONTEXT,
        "attribution": ZERO | {"window": "5s"},
    },
    "mended": {"policy": {"kind": "thompson"}},
    "again": {"policy": {"kind": "thompson"}, "attribution": ZERO},
}
EVENTS = frozenset({"orders", "payments", "refunded"})
"""Experiments whose rewards are events: corrected, taken back, and by unit where there are units."""
FOLDS = ("policy", "results")
ROUNDS = 12
DECISIONS = 25


def value_of(metric: dict[str, Any], arm: int, chance: random.Random) -> float:
    if metric["name"] == NONE["name"]:
        return 0.0
    match metric["kind"]:
        case "binary":
            return float(chance.random() < 0.2 + 0.2 * arm)
        case "bounded":
            return metric["low"] + (metric["high"] - metric["low"]) * chance.random()
        case "count":
            return float(chance.randrange(4 + arm))
    return chance.gauss(3.0 + arm, 2.0)


def visit(service: ThrowawayService, name: str, about: dict[str, Any], chance: random.Random) -> None:
    """Makes some decisions, and rewards most of them."""
    requests: list[dict[str, Any]] = []
    for _ in range(DECISIONS):
        request: dict[str, Any] = {}
        if about.get("unit") == "user":
            request["unit"] = f"u{chance.randrange(200)}"
        if "context" in about:
            request["context"] = {
                "hour": chance.uniform(0.0, 24.0),
                "device": chance.choice(["ios", "web", "?"]),
            }
        requests.append(request)
    decided = service.call("POST", f"/v1/experiments/{name}/decide/batch", {"requests": requests})
    assert decided.status == 200, decided
    rewards = []
    for each in decided.body["responses"]:
        for metric in about.get("metrics", [{"name": "click", "kind": "binary"}]):
            if each["decision_id"] is not None and chance.random() < 0.7:
                value = value_of(metric, len(each["arm"]) % 2, chance)
                reward = {"decision_id": each["decision_id"], "value": value, "metric": metric["name"]}
                if name in EVENTS:
                    reward["event_id"] = f"{metric['name']}-{chance.getrandbits(64):x}"
                rewards.append(reward)
    if name in EVENTS:
        rewards += second_thoughts(rewards, chance)
        if about.get("unit") == "user":
            rewards += by_unit(name, requests, about["metrics"][0]["name"], chance)
    give(service, rewards)


def second_thoughts(rewards: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    """Some of the rewards again, with another value or taken back."""
    again = [reward for reward in rewards if chance.random() < 0.3]
    return [
        reward | {"value": None if chance.random() < 0.5 else abs(reward["value"] - 1.0)} for reward in again
    ]


def by_unit(
    name: str, requests: list[dict[str, Any]], metric: str, chance: random.Random
) -> list[dict[str, Any]]:
    """A reward of 1 for each of some units, told by name."""
    units = sorted({request["unit"] for request in requests if chance.random() < 0.3})
    return [
        {
            "experiment": name,
            "unit": unit,
            "metric": metric,
            "value": 1.0,
            "event_id": f"unit-{chance.getrandbits(64):x}",
        }
        for unit in units
    ]


def give(service: ThrowawayService, rewards: list[dict[str, Any]]) -> None:
    given = service.call("POST", "/v1/rewards", {"rewards": rewards})
    assert given.status == 200, given
    assert given.body["rejected"] == 0, given


def change(service: ThrowawayService, turn: int) -> None:
    """Changes running experiments."""
    calls: dict[int, list[tuple[str, str, Any]]] = {
        3: [
            ("POST", "/v1/experiments/thompson/arms", {"name": "third", "ramp": {"from": 0.1, "over": "1h"}}),
            ("PUT", "/v1/experiments/softmax/policy", {"kind": "exp3"}),
            ("PUT", "/v1/experiments/exp3/policy", {"kind": "kl_ucb"}),
            ("POST", "/v1/experiments/lin-ts/arms", {"name": "third"}),
            ("POST", "/v1/experiments/again/stop", {}),
            ("DELETE", "/v1/experiments/again", None),
        ],
        6: [
            ("PUT", "/v1/experiments/lin-ts/policy", {"kind": "thompson"}),
            ("PUT", "/v1/experiments/square/policy", {"kind": "lin_ucb", "alpha": 0.7}),
            ("PUT", "/v1/experiments/logistic/policy", {"kind": "thompson"}),
            ("POST", "/v1/experiments/top-two/arms/challenger/pause", {"reason": "slow"}),
            ("POST", "/v1/experiments/split/pause", {}),
        ],
        8: [
            ("PUT", "/v1/experiments/logistic/policy", {"kind": "logistic_ts", "scale": 0.3}),
            ("POST", "/v1/experiments/top-two/arms/challenger/resume", {}),
            ("POST", "/v1/experiments/split/start", {}),
            ("POST", "/v1/experiments/ucb/stop", {"winner": "control"}),
        ],
    }
    for method, path, body in calls.get(turn, []):
        answer = service.call(method, path, body)
        assert answer.status < 300, (method, path, answer)


def mend(store: ThrowawayStore, data: Path) -> None:
    """Adds a bad entry to a log, and has a repair leave it out."""
    bad_entry = BAD_ENTRIES["columns of unequal length"]
    with store.client() as client:
        client.xadd(Keys().log("mended"), {bad_entry.kind: bad_entry.data})
    repaired = bandit_serve("repair", "mended", "--leave-out", "--json", "--store", store.url, "--data", data)
    assert repaired.status == 0, repaired


def wait_for_snapshots(store: ThrowawayStore) -> None:
    """Returns when each log has snapshots of both folds in its middle, and the registry has one."""
    with store.client() as client:
        wanted = [Keys().snapshots(name, fold) for name in EXPERIMENTS if name != "again" for fold in FOLDS]
        wanted.append(Keys().snapshots(COMMON, "registry"))
        wait_until(lambda: all(client.exists(key) for key in wanted), 60)


def register(store: ThrowawayStore, data: Path) -> None:
    """Registers two versions of a model, and puts the second into production."""
    where = ("--store", store.url, "--data", data, "--artifacts", "store")
    for version, ratings in (("v1", (4.0, 5.0, 3.0)), ("v2", (1.0, 2.0, 5.0))):
        model = save_model(data / f"{version}.safetensors", ratings)
        assert bandit_serve("models", "register", "films", model, "--version", version, *where).status == 0
    assert bandit_serve("models", "promote", "films", "v2", *where).status == 0


def main() -> None:
    chance = random.Random(16)
    with ThrowawayStore() as store, tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        with ThrowawayService(
            data, "--snapshot-every", "2s", "--artifacts", "store", store=store.url, workers=2
        ) as service:
            for name, about in EXPERIMENTS.items():
                running(service, id=name, **about)
            register(store, data)
            for turn in range(ROUNDS):
                for name, about in EXPERIMENTS.items():
                    if turn > 7 and name == "ucb":
                        continue
                    if name == "again" and turn == 4:
                        running(service, id=name, **about)
                    visit(service, name, about, chance)
                change(service, turn)
            mend(store, data)
            for name, about in EXPERIMENTS.items():
                if name != "ucb":
                    visit(service, name, about, chance)
            wait_for_snapshots(store)
        with store.client() as client:
            save(Path(sys.argv[1]), client, {})
        expected = asyncio.run(fold_all(store.url))
        with store.client() as client:
            save(Path(sys.argv[1]), client, expected)
    print(f"{sys.argv[1]}: {Path(sys.argv[1]).stat().st_size} bytes, {len(expected)} logs")


if __name__ == "__main__":
    main()
