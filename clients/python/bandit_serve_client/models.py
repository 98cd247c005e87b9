"""Models, their versions and their history; and the health of the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

VersionStatus = Literal["training", "staged", "shadow", "production", "retired", "failed"]
PromotionStep = Literal["offline", "shadow", "ramp", "production"]
PromotionState = Literal["offline", "shadow", "ramp", "production", "stopped", "cancelled"]


@dataclass(frozen=True, slots=True)
class Version:
    """Version of a model. `size` is in bytes.

    `remote` is where it is served, if it is served elsewhere; `signature` has the tensors of an ONNX graph.
    """

    model: str
    version: str
    status: VersionStatus
    family: str
    sha256: str
    size: int
    created_at: str
    updated_at: str
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]
    reason: str | None
    pruned: bool = False
    remote: Mapping[str, Any] | None = None
    signature: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModelHistoryEntry:
    """Change of a version: who made it, when, and what it was."""

    at: str
    who: str
    what: str
    version: str
    status: VersionStatus
    reason: str | None


@dataclass(frozen=True, slots=True)
class Model:
    """Model with its versions and history; `production` names the version that serves."""

    model: str
    production: str | None
    versions: tuple[Version, ...]
    history: tuple[ModelHistoryEntry, ...]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """Model and the names of its versions."""

    model: str
    production: str | None
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepTaken:
    """Step of a promotion that was entered. `passed` is None while it goes on; `evidence` is what it was judged by."""

    step: PromotionStep
    began_at: str
    ended_at: str | None
    passed: bool | None
    reason: str | None
    evidence: Mapping[str, Any]
    share: float | None = None


@dataclass(frozen=True, slots=True)
class NextStep:
    """Step of a promotion that is to come, and what has to come before it."""

    step: PromotionStep
    detail: str
    share: float | None = None
    at: str | None = None


@dataclass(frozen=True, slots=True)
class Promotion:
    """Way of a version into production, in comparison with `former`.

    `state` is the step that it is at, `production` when it is there, or how else it ended. `next` is None then.
    """

    id: str
    model: str
    version: str
    former: str
    state: PromotionState
    plan: Mapping[str, Any]
    steps: tuple[StepTaken, ...]
    next: NextStep | None
    who: str
    began_at: str
    ended_at: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Reason why a service is degraded."""

    what: str
    experiment: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """Health of the answering worker."""

    status: Literal["live", "ready", "degraded"]
    reasons: tuple[Trouble, ...] = ()
