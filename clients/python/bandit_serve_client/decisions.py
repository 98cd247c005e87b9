"""Decisions, predictions and scores, as the service answers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bandit_serve_client.errors import Problem

Context = Mapping[str, float | str | bool | None]
Features = Mapping[str, Any] | list[float]
Outputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Version of a model, by name."""

    id: str
    version: str


@dataclass(frozen=True, slots=True)
class Placed:
    """Arm in one place of a list, and the decision that the rewards of that place go with.

    `propensity` is the probability with which it was to be drawn from the arms that were not placed above it.
    """

    decision_id: str | None
    arm: str
    propensity: float
    model: ModelVersion | None
    payload: Any


@dataclass(frozen=True, slots=True)
class Decision:
    """Arm that was drawn.

    `propensity` is the probability with which `arm` was to be drawn. `decision_id` goes with the rewards; it is None
    where nothing was drawn: the experiment is paused or stopped, or `reason` says why not. Where the experiment has
    slots, `slots` is the list of arms, and the other fields are those of its first place.
    """

    decision_id: str | None
    experiment: str
    arm: str
    propensity: float
    model: ModelVersion | None
    payload: Any
    reason: str | None = None
    slots: tuple[Placed, ...] | None = None


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """Item of a top-k, and its score.

    Where lists of two arms are interleaved, also which arm placed it and the decision that its rewards go with.
    """

    item_id: str
    score: float
    arm: str | None = None
    decision_id: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction(Decision):
    """Decision, and the prediction of its arm's model: one of the last four, which depends on what was asked for."""

    prediction: float | None = None
    predictions: tuple[float, ...] | None = None
    items: tuple[ScoredItem, ...] | None = None
    outputs: Outputs | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Prediction of a version without an experiment. `confidence`, 0 to 1, says how much is known of the pair."""

    model_id: str
    model_version: str
    latency_ms: float
    cached: bool
    user_id: str | None = None
    item_id: str | None = None
    prediction: float | None = None
    confidence: float | None = None
    predictions: tuple[float, ...] | None = None
    items: tuple[ScoredItem, ...] | None = None
    outputs: Outputs | None = None


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    """Entry of a batch of decisions."""

    unit: str | None = None
    context: Context | None = None
    eligible: list[str] | None = None
    covariates: dict[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """Entry of a batch of predictions: `user_id` with one of `item_id`, `item_ids` and `k`, or `features` alone."""

    user_id: str | None = None
    item_id: str | None = None
    item_ids: list[str] | None = None
    k: int | None = None
    exclude: list[str] = field(default_factory=list)
    features: Features | None = None
    unit: str | None = None
    context: Context | None = None
    eligible: list[str] | None = None


Decided = Decision | Problem
Predicted = Prediction | Problem
"""Entries of a batch's answer: those that were refused are problems, which are not raised."""
