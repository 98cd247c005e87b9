"""Surroundings of a worker, as pages show them: the other workers, the store, the logs, the learners, the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bandit_serve.registry.registry import RegisteredModel


class LearnerLook(NamedTuple):
    """Learner of a model: log time that it has still to learn, and the log time at which it said so."""

    behind_ms: int
    at_ms: int


class LogLook(NamedTuple):
    """Logs of experiments: bytes in the store, log time of the oldest entry, and of the oldest that no snapshot has.

    `largest` are the names and bytes of the largest ones, the largest first.
    """

    nbytes: int
    oldest_ms: int | None
    uncovered_ms: int | None
    largest: Sequence[tuple[str, int]]


class Surroundings(NamedTuple):
    """What was found at `now_ms`. `store` says which store it is, empty while it is away.

    `used_bytes` is of the store's memory, None where a tenant asks; `loaded` has the workers by model and version. What
    is not known yet is None.
    """

    now_ms: int
    workers: int
    store: str
    durability: str
    used_bytes: int | None
    logs: LogLook | None
    learners: Mapping[str, LearnerLook]
    loaded: Mapping[tuple[str, str], Sequence[str]]


class ModelLook(NamedTuple):
    """Model in a list: its versions by status, how many workers have them in memory, and since when it drifts."""

    name: str
    production: str | None
    versions: Mapping[str, Sequence[str]]
    n_versions: int
    loaded: Mapping[str, int]
    learner: LearnerLook | None
    drift: str


SHOWN_STATUSES = ("production", "shadow", "staged", "training", "failed", "retired")


def look_at_model(model: RegisteredModel, around: Surroundings) -> ModelLook:
    """Look at a model of the registry."""
    versions: dict[str, list[str]] = {}
    for version in model.versions.values():
        versions.setdefault(version.status, []).append(version.version)
    return ModelLook(
        model.name,
        model.production,
        {status: versions[status] for status in SHOWN_STATUSES if status in versions},
        len(model.versions),
        {name: len(workers) for (of, name), workers in around.loaded.items() if of == model.name},
        around.learners.get(model.name),
        drift_of(model),
    )


def drift_of(model: RegisteredModel) -> str:
    """Sentence on the errors of the newest version that a learner made, if they have grown; else empty."""
    for version in reversed(model.versions.values()):
        learner = version.metadata.get("learner")
        if isinstance(learner, Mapping) and "drift_at" in learner:
            at = learner["drift_at"]
            return f"Errors of {model.name} are larger than they were, since rating {at}." if at else ""
    return ""
