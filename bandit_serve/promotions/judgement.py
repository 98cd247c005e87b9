"""Judgement of a step: whether it was passed, why, and by which numbers."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class StepJudgement(Struct, frozen=True):
    """End of a step. `reason` is a sentence, `evidence` names and numbers, as JSON."""

    passed: bool
    reason: str
    evidence: dict[str, Any]
