"""Client of bandit-serve: `Client` for asyncio, `SyncClient` for threads, with the same calls."""

from bandit_serve_client.backlog import OutboxSettings
from bandit_serve_client.client import Client
from bandit_serve_client.decisions import (
    Decision,
    DecisionRequest,
    ModelVersion,
    Prediction,
    PredictionRequest,
    Score,
    ScoredItem,
)
from bandit_serve_client.errors import (
    Changed,
    ClientError,
    Closed,
    Conflict,
    FieldMistake,
    FixedOnceCreated,
    Forbidden,
    InvalidRequest,
    Late,
    NoAnswer,
    NotConnected,
    NotFound,
    Problem,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unsendable,
)
from bandit_serve_client.experiments import (
    ArmResult,
    DecisionSoFar,
    Experiment,
    GuardrailResult,
    HistoryEntry,
    MetricResult,
    Results,
)
from bandit_serve_client.fallback import Default
from bandit_serve_client.models import Health, Model, ModelSummary, Version
from bandit_serve_client.open_decision import OpenDecision
from bandit_serve_client.rewards import Reward, RewardsReport, UnitReward, Verdict
from bandit_serve_client.sync_client import SyncClient
from bandit_serve_client.version import __version__

__all__ = [
    "ArmResult",
    "Changed",
    "Client",
    "ClientError",
    "Closed",
    "Conflict",
    "Decision",
    "DecisionRequest",
    "DecisionSoFar",
    "Default",
    "Experiment",
    "FieldMistake",
    "FixedOnceCreated",
    "Forbidden",
    "GuardrailResult",
    "Health",
    "HistoryEntry",
    "InvalidRequest",
    "Late",
    "MetricResult",
    "Model",
    "ModelSummary",
    "ModelVersion",
    "NoAnswer",
    "NotConnected",
    "NotFound",
    "OpenDecision",
    "OutboxSettings",
    "Prediction",
    "PredictionRequest",
    "Problem",
    "Results",
    "Reward",
    "RewardsReport",
    "Score",
    "ScoredItem",
    "SyncClient",
    "TimedOut",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "UnitReward",
    "Unsendable",
    "Verdict",
    "Version",
    "__version__",
]
