"""Record of a version that was trained."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

MAX_TRIED = 50


class DataRecord(Struct, frozen=True):
    """Data set of a training run: where it came from, how many ratings, and the SHA-256 of them.

    `repeated` counts the ratings of a user and an item that have another one; they were kept in one fold.
    """

    source: str
    ratings: int
    users: int
    items: int
    sha256: str
    repeated: int = 0


class TriedParameters(Struct, frozen=True):
    """Parameters that a search tried: the value of the metric that it searched by, or why there is none."""

    parameters: dict[str, Any]
    value: float | None
    seconds: float
    failure: str | None = None


class RunRecord(Struct, frozen=True):
    """Record of a training run: its inputs, as far as they are needed to explain a version and to repeat it.

    It is kept in the version's metadata, under `training`. `code` is the package's version and, in a checkout, the
    commit. `baseline` and `popular` are the metrics of the biases alone and of the most popular items.
    From `relevant_from` on an item counted as liked. `search` has the best of what was tried, the best first, by the
    metric `searched_by`, at most `MAX_TRIED` of them. `began_ms`: log time before the ratings were read.
    """

    family: str
    parameters: dict[str, Any]
    metrics: dict[str, float]
    baseline: dict[str, float]
    data: DataRecord
    code: dict[str, str]
    seed: int
    split: dict[str, Any]
    trials: int
    seconds: float
    gates: dict[str, str]
    status: str
    reason: str
    relevant_from: float | None = None
    popular: dict[str, float] = {}
    searched_by: str = ""
    search: list[TriedParameters] = []
    began_ms: int | None = None
