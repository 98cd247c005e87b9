"""Record of a training run in a version's metadata, which others may have written: what does not fit is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct


class TriedLook(Struct, frozen=True):
    parameters: dict[str, Any]
    value: float | None
    seconds: float = 0.0
    failure: str | None = None


class TrainingLook(Struct, frozen=True):
    """Fields of a record that are shown. `search`: what was tried, the best first, by the metric `searched_by`."""

    family: str
    parameters: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    baseline: dict[str, float] = {}
    popular: dict[str, float] = {}
    data: dict[str, Any] = {}
    code: dict[str, Any] = {}
    seed: int | None = None
    split: dict[str, Any] = {}
    trials: int = 0
    seconds: float = 0.0
    gates: dict[str, str] = {}
    reason: str = ""
    searched_by: str = ""
    search: list[TriedLook] = []


def training_of(metadata: Mapping[str, Any]) -> TrainingLook | None:
    """Record of the run that made a version; None without one."""
    try:
        return msgspec.convert(metadata.get("training"), TrainingLook)
    except msgspec.ValidationError:
        return None
