"""World for the dashboard to show: experiments of every kind and models in a real service, and visitors."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import msgspec
import numpy as np
from http_calls import call_msgpack, decide_many, upload
from services import Answer

from bandit_serve.training.dataset import DataSet
from bandit_serve.training.pipeline import train
from bandit_serve.training.plan import Plan, Search, Split
from bandit_serve.training.ratings import Ratings

EXPERIMENT, MODEL = "checkout-button", "ranker"
GUARDED, CONTEXTUAL, MANY = "one-click-buy", "feed-order", "headline"
DAY = {"stopping": {"expected_samples": 20_000}}

CLICK = {"name": "click", "kind": "binary"}
SECONDS = {
    "name": "seconds",
    "kind": "continuous",
    "goal": "minimize",
    "role": "guardrail",
    "margin": {"absolute": 0.25},
}
MONEY = {"name": "revenue", "kind": "continuous", "role": "secondary"}
CONTEXT = [
    {"name": "hour", "kind": "numeric"},
    {"name": "device", "kind": "categorical", "values": ["ios", "android", "web"]},
]
DEVICES = ("ios", "android", "web")
ROWS = 400
"""Visitors of an experiment in one round."""


class Called(Protocol):
    """Service, or a caller with a key."""

    def call(
        self, method: str, path: str, body: Any = None, headers: Any = None, timeout_s: float = 30.0
    ) -> Answer: ...


def experiments() -> list[dict[str, Any]]:
    """Definitions: a bandit, a test of users with a guardrail that is harmed, one by context, one of many arms."""
    return [
        {
            "id": EXPERIMENT,
            "arms": [{"name": "control"}, {"name": "green"}, {"name": "larger"}],
            "policy": {"kind": "thompson", "min_share": 0.05},
            "metrics": [CLICK, SECONDS, MONEY],
            "attribution": {"missing": "ignore"},
            "owner": "Ada",
            "tags": ["shop", "checkout"],
            "hypothesis": "A larger button is found sooner.",
            **DAY,
        },
        {
            "id": GUARDED,
            "arms": [{"name": "control"}, {"name": "one-click"}],
            "unit": "user",
            "policy": {"kind": "fixed_split"},
            "metrics": [CLICK, SECONDS],
            "attribution": {"missing": "ignore"},
            "owner": "Grace",
            "tags": ["shop"],
            **DAY,
        },
        {
            "id": CONTEXTUAL,
            "arms": [{"name": name} for name in ("newest", "friends", "mixed")],
            "control": "newest",
            "policy": {"kind": "lin_ts", "min_share": 0.05},
            "metrics": [CLICK],
            "attribution": {"missing": "ignore"},
            "context": CONTEXT,
            "dimensions": ["device"],
            "owner": "Barbara",
            **DAY,
        },
        {
            "id": MANY,
            "arms": [{"name": f"headline-{k:02}"} for k in range(1, 13)],
            "control": "headline-01",
            "policy": {"kind": "thompson", "min_share": 0.01},
            "metrics": [CLICK],
            "attribution": {"window": "20s", "missing": "zero"},
            "owner": "Katherine",
            "tags": ["news"],
        },
        {
            "id": "ranker-v3",
            "arms": [
                {"name": "control", "model": MODEL, "version": "v2"},
                {"name": "challenger", "model": MODEL, "version": "v3"},
            ],
            "policy": {"kind": "top_two_thompson", "min_share": 0.05},
            "metrics": [CLICK],
            "attribution": {"window": "1h", "missing": "zero"},
            "owner": "Ada",
        },
    ]


CHANCES: dict[str, list[float]] = {
    EXPERIMENT: [0.10, 0.115, 0.145],
    GUARDED: [0.20, 0.205],
    MANY: [0.05 + 0.004 * k for k in range(12)],
    "ranker-v3": [0.3, 0.3],
}
SECONDS_OF_ARMS = {EXPERIMENT: [3.0, 3.02, 2.96], GUARDED: [3.0, 3.6]}


class World:
    """Experiments and models in a service. `visit` sends one round of visitors."""

    def __init__(self, service: Called, chance: random.Random) -> None:
        self._service = service
        self._chance = chance
        self._rounds = 0
        self._has_models = False

    def begin(self, *, models: bool = True) -> None:
        self._has_models = models
        if models:
            self._make_models()
        for each in experiments():
            if models or each["id"] != "ranker-v3":
                self._expect("POST", "/v1/experiments", each)
                self._move(each["id"], "start", "to find out")
        self._expect("POST", "/v1/experiments", {**experiments()[0], "id": "price-hint", "owner": "Edith"})
        banner = {**experiments()[0], "id": "banner-colour", "owner": "Annie", "metrics": [CLICK]}
        self._expect("POST", "/v1/experiments", banner)
        self._move("banner-colour", "start", "as last year")
        self._visit("banner-colour", [0.05, 0.08, 0.16], 4_000)
        self._move("banner-colour", "pause", "a fault in the shop")

    def visit(self) -> None:
        """A round of visitors to every experiment."""
        self._rounds += 1
        for name, chances in CHANCES.items():
            if name != "ranker-v3" or (self._has_models and self._rounds % 5 == 0):
                self._visit(name, chances, ROWS)
        self._visit_by_context(ROWS // 4)
        if self._has_models:
            self._recommend()

    def end(self) -> None:
        """What people do after they have looked."""
        self._move("banner-colour", "start", "the shop is well again")
        self._expect(
            "POST", "/v1/experiments/banner-colour/stop", {"winner": "larger", "reason": "it is clear"}
        )

    def _visit(self, name: str, chances: list[float], rows: int) -> None:
        chance = self._chance
        decided = decide_many(self._service, name, [f"u{chance.random()}" for _ in range(rows)])  # type: ignore[arg-type]
        rewards: list[dict[str, Any]] = []
        for token, arm in zip(decided["decision_ids"], decided["arms"], strict=True):
            if token is None:
                continue
            clicked = chance.random() < chances[arm]
            if clicked or name not in (MANY, "ranker-v3"):
                rewards.append({"decision_id": token, "value": float(clicked)})
            if name in SECONDS_OF_ARMS:
                value = chance.gauss(SECONDS_OF_ARMS[name][arm], 0.8)
                rewards.append({"decision_id": token, "value": value, "metric": "seconds"})
            if name == EXPERIMENT:
                value = chance.lognormvariate(2.0, 0.6) if clicked else 0.0
                rewards.append({"decision_id": token, "value": value, "metric": "revenue"})
        self._reward(rewards)

    def _visit_by_context(self, rows: int) -> None:
        chance = self._chance
        contexts = [
            {"hour": chance.uniform(0.0, 24.0), "device": chance.choice(DEVICES)} for _ in range(rows)
        ]
        body = {"requests": [{"unit": f"u{chance.random()}", "context": each} for each in contexts]}
        answer = call_msgpack(self._service, f"/v1/experiments/{CONTEXTUAL}/decide/batch", body)  # type: ignore[arg-type]
        assert answer.status == 200, answer
        likes = {"ios": "friends", "android": "mixed", "web": "newest"}
        self._reward(
            [
                {
                    "decision_id": decided["decision_id"],
                    "value": float(
                        chance.random() < (0.35 if likes[str(each["device"])] == decided["arm"] else 0.15)
                    ),
                }
                for each, decided in zip(contexts, answer.body["responses"], strict=True)
            ]
        )

    def _recommend(self) -> None:
        """A few requests to the model, which its shadow scores, too."""
        for _ in range(4):
            user, items = (
                f"u{self._chance.randrange(80)}",
                [f"i{self._chance.randrange(60)}" for _ in range(5)],
            )
            self._expect("POST", f"/v1/models/{MODEL}/predict", {"user_id": user, "item_ids": items})
            self._expect("POST", f"/v1/models/{MODEL}/predict", {"user_id": user, "k": 10})

    def _reward(self, rewards: list[dict[str, Any]]) -> None:
        answer = call_msgpack(self._service, "/v1/rewards", {"rewards": rewards})  # type: ignore[arg-type]
        assert answer.status == 200, answer

    def _make_models(self) -> None:
        for number, (n, seed) in enumerate(((1_500, 1), (2_500, 2), (4_000, 3)), 1):
            trained = train(
                DataSet(some_ratings(n, seed), source="visits of the shop"),
                Plan(
                    families={"matrix_factorization": {}},
                    split=Split(folds=2),
                    search=Search(trials=8, jobs=1, backend="sequential"),
                ),
            ).trained[0]
            metadata = {
                "version": f"v{number}",
                "status": "training",
                "metrics": trained.record.metrics,
                "metadata": {"training": msgspec.to_builtins(trained.record)},
            }
            with TemporaryDirectory() as folder:
                path = Path(folder, "m.safetensors")
                trained.model.save(path)
                answer = upload(self._service, MODEL, path.read_bytes(), metadata)  # type: ignore[arg-type]
            assert answer.status == 201, answer
            for status in ("staged", "production") if number < 3 else ("staged", "shadow"):
                at = f"/v1/models/{MODEL}/versions/v{number}/status"
                self._expect("POST", at, {"status": status, "reason": "as good as the gate wants"})

    def _move(self, name: str, to: str, reason: str) -> None:
        self._expect("POST", f"/v1/experiments/{name}/{to}", {"reason": reason})

    def _expect(self, method: str, path: str, body: Any) -> None:
        answer = self._service.call(method, path, body)
        assert answer.status in (200, 201), answer


def some_ratings(n: int, seed: int) -> Ratings:
    """Ratings of 80 users and 60 items that have tastes."""
    draw = np.random.default_rng(seed)
    tastes, kinds = draw.normal(0.0, 1.0, (80, 3)), draw.normal(0.0, 0.7, (60, 3))
    users, items = draw.integers(0, 80, n), draw.integers(0, 60, n)
    scores = 3.3 + (tastes[users] * kinds[items]).sum(1) + draw.normal(0.0, 0.5, n)
    return Ratings(
        np.array([f"u{k}" for k in users]),
        np.array([f"i{k}" for k in items]),
        np.clip(np.round(scores), 1, 5).astype(np.float32),
        1_700_000_000 + np.arange(n, dtype=np.int64) * 60,
    )
