"""Bodies of the OpenFeature Remote Evaluation Protocol (OFREP)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.api.decisions import OutsideReason

MAX_ATTRIBUTES = 1_000

Reason = Literal["SPLIT", "DISABLED", "STATIC", "DEFAULT"]
ErrorCode = Literal["PARSE_ERROR", "TARGETING_KEY_MISSING", "INVALID_CONTEXT", "FLAG_NOT_FOUND", "GENERAL"]


class EvaluationRequest(Struct, frozen=True):
    """`targetingKey` of the context is the unit; values that an experiment has no field for are ignored."""

    context: Annotated[dict[str, Any], Meta(max_length=MAX_ATTRIBUTES)] | None = None


class FlagMetadata(Struct, frozen=True):
    """`decision_id` is there where the arm was drawn; `model` and `version` where it has a model.

    `reason` is there where the request is outside of the experiment.
    """

    experiment: str
    propensity: float
    decision_id: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    version: str | UnsetType = UNSET
    reason: OutsideReason | UnsetType = UNSET


class Flag(Struct, frozen=True):
    """Arm of the experiment `key`: `value` is its payload or else its name, `variant` its name."""

    key: str
    value: Any
    variant: str
    reason: Reason
    metadata: FlagMetadata


class FlagList(Struct, frozen=True):
    flags: list[Flag]
    metadata: dict[str, str]
