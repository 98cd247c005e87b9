"""Examples of request and answer bodies for `/openapi.json`. Each is valid for the schema of its type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bandit_serve.api.decisions import (
    DecideBatch,
    Decided,
    DecidedColumns,
    DecideRequest,
    PredictBatch,
    Predicted,
    PredictRequest,
    Scored,
    ScoreRequest,
)
from bandit_serve.api.definitions import DefinitionList, DefinitionUses, DefinitionView
from bandit_serve.api.deployments import (
    BuildRequest,
    BuiltImage,
    Canary,
    CanaryRequest,
    DeploymentList,
    DeploymentLogs,
    DeploymentRequest,
    DeploymentView,
    StopDeploymentRequest,
)
from bandit_serve.api.flags import EvaluationRequest, Flag, FlagList
from bandit_serve.api.inference import (
    IndexEntry,
    IndexRequest,
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
)
from bandit_serve.api.keys import CreatedKey, KeyList, KeyRequest
from bandit_serve.api.promotions import CancelRequest, PromotionList, PromotionRequest, PromotionView
from bandit_serve.api.rewards import ExposuresRequest, RewardsReport, RewardsRequest
from bandit_serve.experiments.definition import MetricDefinition
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment
from bandit_serve.results.plan_request import PlanRequest
from bandit_serve.results.planning import ExperimentPlan
from bandit_serve.server.handlers.covariates import CovariatesRequest, CovariatesView
from bandit_serve.server.handlers.experiments import (
    ArmRequest,
    LayerRequest,
    MetricRequest,
    ReasonRequest,
    StopRequest,
)
from bandit_serve.server.handlers.models import PatchRequest, RollbackRequest, StatusRequest, VersionMetadata
from bandit_serve.server.route import BatchAnswer

TOKEN = "Af9PqR0JbC3kWmYx8sT1uQ"
MODEL = {"id": "ranker", "version": "v2"}
CONTEXT = {"hour": 9, "device": "ios"}
PROMOTION_PLAN = {
    "offline": "rmse <= 1.01 * current.rmse",
    "shadow": {"requests": 1_000, "gate": "errors <= 0.01 and latency_ms <= 20"},
    "ramp": {"steps": [0.01, 0.05, 0.2, 0.5], "each": "1h", "guardrails": ["error=0.05"]},
    "experiment": "ranker-v2",
}
PROMOTED = {
    "id": "p1",
    "model": "ranker",
    "version": "v2",
    "former": "v1",
    "state": "shadow",
    "plan": PROMOTION_PLAN,
    "steps": [
        {
            "step": "offline",
            "began_at": "2026-03-02T09:00:00.000Z",
            "ended_at": "2026-03-02T09:00:00.500Z",
            "passed": True,
            "reason": "rmse 0.87 is <= 1.01 × current.rmse 0.89.",
            "evidence": {
                "gate": "rmse <= 1.01 * current.rmse",
                "metrics": {"rmse": 0.87},
                "current": {"rmse": 0.89},
            },
        },
        {
            "step": "shadow",
            "began_at": "2026-03-02T09:00:00.500Z",
            "ended_at": None,
            "passed": None,
            "reason": None,
            "evidence": {},
        },
    ],
    "next": {
        "step": "ramp",
        "detail": "It has to score 1,000 requests, and the gate to be open: errors <= 0.01 and latency_ms <= 20",
        "share": 0.01,
    },
    "who": "ops",
    "began_at": "2026-03-02T09:00:00.000Z",
    "ended_at": None,
    "reason": None,
}
DECIDED = {
    "decision_id": TOKEN,
    "experiment": "ranker-v2",
    "arm": "challenger",
    "propensity": 0.74,
    "model": MODEL,
    "payload": None,
}
OUTSIDE = {**DECIDED, "decision_id": None, "arm": "control", "propensity": 1.0, "reason": "audience"}
SCORED = {
    "user_id": "7",
    "model_id": "ranker",
    "model_version": "v2",
    "latency_ms": 0.04,
    "cached": False,
}
BEST = [{"item_id": "50", "score": 4.6}, {"item_id": "181", "score": 4.4}]
FLAG = {
    "key": "ranker-v2",
    "value": {"colour": "green"},
    "variant": "challenger",
    "reason": "SPLIT",
    "metadata": {"experiment": "ranker-v2", "propensity": 0.74, "decision_id": TOKEN},
}
REVENUE = {
    "kind": "continuous",
    "cap": 500.0,
    "covariate": "spent_before",
    "description": "Euros paid within a day, without shipping.",
    "owner": "finance@shop.example",
}
DEFINED = {
    **REVENUE,
    "goal": "maximize",
    "low": None,
    "high": None,
    "name": "revenue",
    "revision": 7,
    "updated_at": "2026-01-31T12:00:00.000Z",
    "updated_by": "http:127.0.0.1",
}
EFFECT = {"absolute": 0.005, "relative": 0.05}
FEATURES = {"income": 52000.0, "age": 41, "country": "de"}
OUTPUTS = {"label": "repaid", "probabilities": [0.08, 0.92]}
REFUSED = {
    "type": "urn:bandit-serve:problem:invalid-request",
    "title": "The request is not valid",
    "status": 400,
    "detail": "eligible: expected at least one arm.",
    "errors": [{"at": "eligible", "detail": "expected at least one arm"}],
}

# By type, and by a name of the case.
SERVED = {"model": "ranker", "version": "v2", "sha256": "5f" * 32}
DEPLOYMENT = {
    "name": "ranker",
    "container_id": "4c01db0b339c6ea95a3b7c0a6fbe1f2d",
    "image": "ranker:2",
    "status": "running",
    "health": "healthy",
    "url": "http://127.0.0.1:8100",
    "exit_code": None,
    "ready": True,
    "model": "ranker",
    "version": "v2",
    "environment": "staging",
}
EXAMPLES: Mapping[Any, Mapping[str, Any]] = {
    BuildRequest: {"serving": {"tag": "ranker:2", "network": "host", "model": "ranker", "version": "v2"}},
    BuiltImage: {"serving": {"tag": "ranker:2", "image": "sha256:9c1f", "size": 276252283, **SERVED}},
    DeploymentRequest: {
        "service": {"name": "shop", "tag": "shop:1", "port": 8100, "memory": "512m", "cpus": 1.0},
        "serving": {
            "name": "ranker",
            "tag": "ranker:2",
            "port": 8100,
            "serving": {"model": "ranker", "version": "v2", "environment": "staging"},
        },
    },
    DeploymentView: {"serving": DEPLOYMENT},
    DeploymentList: {"one": {"deployments": [DEPLOYMENT]}},
    DeploymentLogs: {"lines": {"lines": ["bandit-serve is ready on http://0.0.0.0:8000 with 1 worker"]}},
    StopDeploymentRequest: {"timeout": {"timeout": "10s"}},
    CanaryRequest: {
        "ramp": {
            "model": "ranker",
            "version": "v2",
            "experiment": "ranker-v2",
            "ramp": {"from": 0.01, "over": "1h"},
            "guardrail": "error=0.05",
        }
    },
    Canary: {
        "arm": {
            "experiment": "ranker-v2",
            "arm": "canary-v2",
            "model": "ranker",
            "version": "v2",
            "guardrail": "error=0.05",
            "paused": False,
        }
    },
    DecideRequest: {
        "unit": {"unit": "u1"},
        "context": {"unit": "u1", "context": CONTEXT, "eligible": ["control", "challenger"]},
        "covariates": {"unit": "u1", "covariates": {"spent_before": 12.5}},
    },
    Decided: {"decided": DECIDED, "outside": OUTSIDE},
    DecideBatch: {
        "requests": {"requests": [{"unit": "u1"}, {"unit": "u2", "context": CONTEXT}]},
        "columns": {"units": ["u1", "u2"], "contexts": [CONTEXT, None]},
    },
    BatchAnswer(Decided): {"responses": {"responses": [DECIDED, REFUSED]}},
    DecidedColumns: {
        "columns": {
            "decision_ids": [TOKEN, None],
            "arms": [1, 0],
            "propensities": [0.74, 1.0],
            "arm_names": ["control", "challenger"],
            "reasons": [None, "layer"],
        }
    },
    PredictRequest: {
        "item": {"user_id": "7", "item_id": "50"},
        "items": {"user_id": "7", "item_ids": ["50", "181"], "features": {"hour": 9}},
        "top_k": {"user_id": "7", "k": 2, "exclude": ["1"], "unit": "session-3"},
        "features": {"unit": "u1", "features": FEATURES},
    },
    Predicted: {
        "item": {**DECIDED, "prediction": 4.6},
        "items": {**DECIDED, "predictions": [4.6, 4.4]},
        "top_k": {**DECIDED, "items": BEST},
        "features": {**DECIDED, "outputs": OUTPUTS},
    },
    PredictBatch: {"requests": {"requests": [{"user_id": "7", "item_id": "50"}, {"user_id": "8", "k": 2}]}},
    BatchAnswer(Predicted): {
        "responses": {"responses": [{**DECIDED, "prediction": 4.6}, {**DECIDED, "items": BEST}]}
    },
    ScoreRequest: {
        "item": {"user_id": "7", "item_id": "50"},
        "items": {"user_id": "7", "item_ids": ["50", "181"]},
        "top_k": {"user_id": "7", "k": 2, "exclude": ["1"]},
        "features": {"features": FEATURES},
    },
    Scored: {
        "item": {**SCORED, "item_id": "50", "prediction": 4.6, "confidence": 0.9},
        "items": {**SCORED, "predictions": [4.6, 4.4]},
        "top_k": {**SCORED, "cached": True, "items": BEST},
        "features": {name: value for name, value in SCORED.items() if name != "user_id"}
        | {"outputs": OUTPUTS},
    },
    RewardsRequest: {
        "one": {"decision_id": TOKEN, "value": 1},
        "event": {"decision_id": TOKEN, "value": 25.0, "metric": "revenue", "event_id": "order-17"},
        "retraction": {"decision_id": TOKEN, "value": None, "metric": "revenue", "event_id": "order-17"},
        "by_unit": {
            "experiment": "checkout-button",
            "unit": "user-7",
            "value": 25.0,
            "metric": "revenue",
            "event_id": "order-17",
            "at": "2026-01-31T12:00:00.000Z",
        },
        "many": {"rewards": [{"decision_id": TOKEN, "value": 25.0, "metric": "revenue"}]},
    },
    ExposuresRequest: {"seen": {"decision_ids": [TOKEN]}},
    EvaluationRequest: {"unit": {"context": {"targetingKey": "u1", **CONTEXT}}},
    Flag: {"split": FLAG},
    FlagList: {"flags": {"flags": [FLAG], "metadata": {}}},
    InferenceRequest: {
        "rows": {
            "inputs": [
                {"name": "user_id", "shape": [2], "datatype": "BYTES", "data": ["7", "8"]},
                {"name": "item_id", "shape": [2], "datatype": "BYTES", "data": ["50", "181"]},
            ]
        }
    },
    InferenceResponse: {
        "experiment": {
            "model_name": "ranker-v2",
            "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [1], "data": [4.6]}],
            "parameters": {
                "decision_ids": [TOKEN],
                "arms": ["challenger"],
                "propensities": [0.74],
                "decision_id": TOKEN,
                "arm": "challenger",
                "propensity": 0.74,
            },
        }
    },
    ModelMetadata: {
        "model": {
            "name": "ranker",
            "versions": ["v1", "v2"],
            "platform": "bandit_serve",
            "inputs": [
                {"name": "user_id", "datatype": "BYTES", "shape": [-1]},
                {"name": "item_id", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [{"name": "prediction", "datatype": "FP64", "shape": [-1]}],
        }
    },
    IndexRequest: {"all": {"ready": False}},
    list[IndexEntry]: {"index": [{"name": "ranker", "version": "v2", "state": "READY", "reason": ""}]},
    RewardsReport: {
        "accepted": {"accepted": 1, "duplicates": 0, "rejected": 0, "verdicts": ["accepted"]},
        "many": {
            "accepted": 2,
            "duplicates": 1,
            "rejected": 1,
            "verdicts": ["accepted", "corrected", "duplicate", "conflict"],
        },
    },
    Experiment: {
        "split": {
            "id": "checkout-button",
            "arms": [
                {"name": "control", "payload": {"colour": "grey"}},
                {"name": "challenger", "payload": {"colour": "green"}},
            ],
            "unit": "user",
            "metrics": [
                {"name": "paid", "kind": "binary"},
                {"name": "revenue", "kind": "continuous", "cap": 500, "covariate": "spent_before"},
                {"name": "orders", "kind": "count"},
                {"name": "basket", "kind": "ratio", "numerator": "revenue", "denominator": "orders"},
            ],
            "attribution": {"window": "24h", "missing": "zero"},
        },
        "bandit": {
            "id": "headline",
            "arms": [{"name": "control"}, {"name": "question"}, {"name": "number"}],
            "policy": {"kind": "thompson", "min_share": 0.02},
            "metrics": [
                {"name": "click", "kind": "binary", "goal": "maximize", "role": "objective"},
                {
                    "name": "latency_ms",
                    "kind": "continuous",
                    "goal": "minimize",
                    "role": "guardrail",
                    "source": "served",
                    "margin": {"relative": 0.1},
                    "on_harm": "pause_arm",
                },
            ],
            "attribution": {"window": "1h", "missing": "zero"},
            "stopping": {
                "min_samples": 1000,
                "alpha": 0.05,
                "expected_samples": 20000,
                "start_at": "2099-03-02T09:00:00Z",
                "end_at": "2099-03-30T09:00:00Z",
                "duration": "14d",
                "rule": {"precision": 0.005},
                "promote_winner": True,
            },
        },
        "contextual": {
            "id": "banner",
            "arms": [{"name": "control"}, {"name": "summer"}],
            "policy": {"kind": "lin_ts"},
            "metrics": [{"name": "score", "kind": "bounded", "low": 0, "high": 10}],
            "context": [
                {"name": "hour", "kind": "numeric", "mean": 12, "std": 6},
                {"name": "device", "kind": "categorical", "values": ["ios", "web"], "interactions": ["hour"]},
            ],
            "dimensions": ["device"],
        },
        "audience": {
            "id": "delivery-date",
            "description": "The day of delivery is shown before payment.",
            "owner": "checkout@shop.example",
            "tags": ["checkout", "2026"],
            "hypothesis": "Who knows the day pays more often.",
            "arms": [{"name": "control"}, {"name": "shown"}],
            "unit": "user",
            "metrics": [{"name": "paid", "kind": "binary"}],
            "attribution": {"window": "24h", "missing": "zero"},
            "audience": {
                "all": [
                    {"field": "country", "in": ["de", "at"]},
                    {"field": "orders", "ge": 1},
                    {"not": {"field": "employee", "eq": True}},
                ]
            },
            "layer": {"name": "checkout", "share": 0.5},
            "keep_assigned": True,
        },
        "several metrics": {
            "id": "search",
            "arms": [{"name": "small"}, {"name": "large"}],
            "policy": {"kind": "thompson"},
            "metrics": [
                {"name": "conversion", "kind": "binary", "role": "objective"},
                {"name": "latency_ms", "kind": "continuous", "goal": "minimize"},
                {"name": "refund", "kind": "continuous", "goal": "minimize"},
            ],
            "attribution": {"missing": "ignore"},
            "constraints": [{"metric": "latency_ms", "at_most": 250}],
            "weights": {"refund": -0.02},
        },
        "slots": {
            "id": "shelf",
            "slots": 3,
            "arms": [{"name": name} for name in ("new", "popular", "nearby", "again")],
            "policy": {"kind": "thompson", "min_share": 0.02},
            "metrics": [{"name": "click", "kind": "binary"}],
            "attribution": {"window": "30m", "missing": "ignore"},
        },
        "catalogue": {
            "id": "one-page",
            "arms": [{"name": "control"}, {"name": "one_page"}],
            "unit": "user",
            "metrics": [
                {"name": "paid"},
                {"name": "revenue"},
                {"name": "errors", "role": "guardrail", "margin": {"relative": 0.1}, "on_harm": "stop"},
            ],
            "attribution": {"window": "24h", "missing": "zero"},
        },
    },
    MetricDefinition: {
        "revenue": REVENUE,
        "stars": {"kind": "bounded", "low": 1, "high": 5},
        "basket": {"kind": "ratio", "numerator": "revenue", "denominator": "orders"},
    },
    DefinitionView: {"revenue": DEFINED},
    DefinitionList: {"page": {"metrics": [DEFINED], "after": "revenue"}},
    DefinitionUses: {
        "revenue": {
            **DEFINED,
            "experiments": [{"experiment": "one-page", "status": "running", "is_current": True}],
        }
    },
    CovariatesRequest: {
        "spent": {"unit": ["user-7", "user-8"], "covariates": {"spent_before": [12.5, None]}},
    },
    CovariatesView: {"spent": {"units": 2, "covariates": ["spent_before"]}},
    PolicySpec: {
        "thompson": {"kind": "thompson", "min_share": 0.02, "half_life": "7d"},
        "fixed_split": {"kind": "fixed_split", "shares": {"control": 9, "challenger": 1}},
    },
    MetricRequest: {
        "late": {"name": "revenue", "kind": "continuous", "cap": 500, "reason": "asked for by finance"},
        "named": {"name": "revenue", "reason": "asked for by finance"},
    },
    ArmRequest: {
        "ramp": {"name": "third", "payload": {"colour": "blue"}, "ramp": {"from": 0.01, "over": "2h"}},
        "model": {"name": "fourth", "model": "ranker", "version": "v3", "reason": "retrained"},
    },
    ReasonRequest: {"reason": {"reason": "the button was broken on phones"}},
    LayerRequest: {"share": {"name": "checkout", "share": 0.4, "reason": "another one has ended"}},
    StopRequest: {"winner": {"winner": "challenger", "reason": "beats control"}},
    PlanRequest: {
        "effect": {"baseline": {"rate": 0.1}, "effect": {"relative": 0.05}, "traffic": 4000},
        "days": {"baseline": {"mean": 20.5, "sd": 31.0}, "days": 14, "traffic": 4000, "correlation": 0.6},
        "experiment": {"experiment": "checkout-button", "effect": {"relative": 0.05}},
    },
    ExperimentPlan: {
        "effect": {
            "baseline": {"rate": 0.1},
            "traffic": 4000.0,
            "alpha": 0.05,
            "power": 0.8,
            "arms": 2,
            "fixed": {"n": 115528, "days": 28.882, "effect": EFFECT, "power": 0.8},
            "anytime": {
                "n": 191640,
                "days": 47.91,
                "effect": EFFECT,
                "power": 0.8,
                "mean_n": 129397,
                "mean_days": 32.35,
                "expected_samples": 115527,
            },
            "horizon": {
                "n": 118384,
                "days": 29.596,
                "effect": EFFECT,
                "power": 0.8,
                "mean_n": 95152,
                "mean_days": 23.788,
                "expected_samples": 118384,
                "looks": 5,
            },
        }
    },
    VersionMetadata: {
        "remote": {
            "version": "v3",
            "remote": {
                "url": "https://ml.example/ranker",
                "protocol": "open-inference",
                "timeout": "200ms",
                "headers": {"Authorization": "env:RANKER_TOKEN"},
            },
        },
    },
    KeyRequest: {
        "serves": {"scope": "serve", "name": "shop", "expires": "90d"},
        "of_a_tenant": {"scope": "admin", "name": "ops", "tenant": "shop"},
    },
    CreatedKey: {"key": {"id": "mzxw6ytboi4dcmjs", "key": "bsk_mzxw6ytboi4dcmjs_SECRET"}},
    KeyList: {
        "one": {
            "keys": [
                {
                    "id": "mzxw6ytboi4dcmjs",
                    "name": "shop",
                    "scope": "serve",
                    "tenant": None,
                    "status": "valid",
                    "created_at": "2026-03-02T09:00:00.000Z",
                    "created_by": "ops",
                    "expires_at": "2026-05-31T09:00:00.000Z",
                    "revoked_at": None,
                    "revoked_by": None,
                }
            ]
        }
    },
    PromotionRequest: {"plan": {"version": "v2", "plan": PROMOTION_PLAN}},
    PromotionView: {"shadow": PROMOTED},
    PromotionList: {"one": {"promotions": [PROMOTED]}},
    CancelRequest: {"reason": {"reason": "v3 comes instead"}},
    PatchRequest: {"metrics": {"metrics": {"rmse": 0.87}, "metadata": {"note": "of March"}}},
    RollbackRequest: {"reason": {"reason": "slower than v1"}},
    StatusRequest: {"production": {"status": "production", "reason": "won ranker-v2"}},
}


def examples_of(kinds: Iterable[Any]) -> dict[str, Any]:
    """Examples of these types, in the form of OpenAPI's `examples`."""
    return {name: {"value": value} for kind in kinds for name, value in EXAMPLES.get(kind, {}).items()}
