"""Experiments, models and versions as callers see them, over HTTP and on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from bandit_serve.base.clock import rfc3339
from bandit_serve.experiments.spec import ArmStatus, Experiment, Record, Status
from bandit_serve.folds.alarms import Alarm
from bandit_serve.folds.experiment import HistoryEntry
from bandit_serve.folds.replica import Aside, Replica
from bandit_serve.models.onnx.signature import Signature
from bandit_serve.registry.catalogue import parameters_of
from bandit_serve.registry.registry import ModelHistoryEntry, RegisteredModel, Version, VersionStatus
from bandit_serve.upstreams.upstream import Upstream


class RampView(Struct, frozen=True, rename={"start": "from"}):
    """A ramp and since when it rises: `since` is null in a draft, where it rises from the start on."""

    start: float
    over: str
    since: str | None


class SetAsideView(Struct, frozen=True):
    """Since when an experiment can not be folded, at which entry or snapshot of its log if it is one, and why."""

    since: str
    offset: str | None
    reason: str


class ExperimentView(Experiment, frozen=True, kw_only=True):
    """The experiment and where it stands. `arm_status` and `ramps` are by arm; `arms` has the removed ones too.

    `held` is, by arm, the most that its share may be while a promotion holds it there.

    `overridden` lists, by arm, the guardrails that do not pause it any more. With `unpromoted` the winner serves this
    experiment's callers, and its version was not promoted. One with `set_aside` is as it was when it could be read
    last.
    """

    status: Status
    revision: int
    created_at: str
    updated_at: str
    started_at: str | None
    stopped_at: str | None
    winner: str | None
    arm_status: dict[str, ArmStatus]
    ramps: dict[str, RampView]
    held: dict[str, float] | UnsetType = UNSET
    overridden: dict[str, tuple[str, ...]] | UnsetType = UNSET
    unpromoted: bool | UnsetType = UNSET
    set_aside: SetAsideView | UnsetType = UNSET


class ExperimentList(Struct, frozen=True):
    """`after` is what the next page is asked for with; not there on the last one, and where no `limit` was given."""

    experiments: list[ExperimentView]
    after: str | UnsetType = UNSET


class HistoryView(Struct, frozen=True):
    """Change in the history. Those that the service made by itself have their `evidence`."""

    revision: int
    at: str
    who: str
    what: str
    status: str
    policy: str
    reason: str | None
    arm: str | None
    evidence: dict[str, Any] | UnsetType = UNSET
    metric: str | UnsetType = UNSET


class History(Struct, frozen=True):
    history: list[HistoryView]


class AlarmView(Struct, frozen=True):
    """The arm's mean changed from `before` to `after` soon after `since`, as was noticed at `at`."""

    arm: str
    at: str
    since: str
    before: float
    after: float


class VersionView(Struct, frozen=True):
    model: str
    version: str
    status: VersionStatus
    family: str
    sha256: str
    size: int
    created_at: str
    updated_at: str
    metrics: dict[str, float]
    metadata: dict[str, Any]
    reason: str | None
    pruned: bool | UnsetType = UNSET
    signature: Signature | UnsetType = UNSET
    remote: Upstream | UnsetType = UNSET


class LoadedBy(Struct, frozen=True):
    """The workers that have a version in memory, of those that live."""

    model: str
    version: str
    workers: list[str]


class VersionPage(Struct, frozen=True):
    """`after` is what the next page is asked for with; null on the last one."""

    versions: list[VersionView]
    total: int
    after: str | None


class Difference(Struct, frozen=True):
    a: Any
    b: Any


class VersionComparison(Struct, frozen=True):
    """Metrics that both have, with b − a; hyper-parameters that differ; bytes and seconds that b has more."""

    a: VersionView
    b: VersionView
    metrics: dict[str, float]
    parameters: dict[str, Difference]
    size: int
    age_s: float


class ModelHistoryView(Struct, frozen=True):
    at: str
    who: str
    what: str
    version: str
    status: VersionStatus
    reason: str | None


class ModelView(Struct, frozen=True):
    model: str
    production: str | None
    versions: list[VersionView]
    history: list[ModelHistoryView]


class ModelSummary(Struct, frozen=True):
    model: str
    production: str | None
    versions: list[str]


class ModelList(Struct, frozen=True):
    """`after` as in `ExperimentList`."""

    models: list[ModelSummary]
    after: str | UnsetType = UNSET


def set_aside_view(aside: Aside) -> SetAsideView:
    return SetAsideView(
        rfc3339(aside.since_ms), None if aside.offset is None else str(aside.offset), aside.reason
    )


def experiment_view(record: Record, aside: Aside | None = None) -> ExperimentView:
    """View of a record; `aside` if the experiment is set aside. One that was given up is shown as stopped."""
    experiment = record.experiment
    fields = {name: getattr(experiment, name) for name in Experiment.__struct_fields__}
    fields["stopping"] = experiment.stopping.shown()
    return ExperimentView(
        **fields,
        status="stopped" if aside is not None and aside.given_up else record.status,
        revision=record.revision,
        created_at=rfc3339(record.created_ms),
        updated_at=rfc3339(record.updated_ms),
        started_at=None if record.started_ms is None else rfc3339(record.started_ms),
        stopped_at=None if record.stopped_ms is None else rfc3339(record.stopped_ms),
        winner=record.winner,
        arm_status=record.arm_statuses,
        ramps=_ramps(record),
        held=record.held or UNSET,
        overridden=record.overridden or UNSET,
        unpromoted=record.unpromoted,
        set_aside=UNSET if aside is None else set_aside_view(aside),
    )


def known_experiments(replica: Replica) -> list[str]:
    """Names of all experiments, in order; those that are set aside are included if their record is known."""
    return sorted(replica.records())


def view_of(replica: Replica, name: str) -> ExperimentView:
    """View of one of `known_experiments`, even if it was set aside since."""
    aside = replica.aside.get(name)
    if aside is not None and aside.record is not None:
        return experiment_view(aside.record, aside)
    return experiment_view(replica.experiment(name).record)


def _ramps(record: Record) -> dict[str, RampView]:
    ramps = {}
    for name, standing in zip(record.experiment.arm_names, record.standings, strict=False):
        ramp, since_ms = standing.ramp, standing.ramp_since_ms
        if ramp is not None:
            since = None if since_ms is None else rfc3339(since_ms)
            ramps[name] = RampView(ramp.start, ramp.over, since)
    return ramps


def history_view(entry: HistoryEntry) -> HistoryView:
    return HistoryView(
        entry.revision,
        rfc3339(entry.at_ms),
        entry.who,
        entry.what,
        entry.status,
        entry.policy,
        entry.reason,
        entry.arm,
        entry.evidence,
        entry.metric,
    )


def alarm_view(alarm: Alarm, arm_names: Sequence[str]) -> AlarmView:
    return AlarmView(
        arm_names[alarm.arm], rfc3339(alarm.at_ms), rfc3339(alarm.since_ms), alarm.before, alarm.after
    )


def version_view(version: Version) -> VersionView:
    return VersionView(
        model=version.model,
        version=version.version,
        status=version.status,
        family=version.family,
        sha256=version.sha256,
        size=version.size,
        created_at=rfc3339(version.created_ms),
        updated_at=rfc3339(version.updated_ms),
        metrics=version.metrics,
        metadata=version.metadata,
        reason=version.reason,
        pruned=version.pruned or UNSET,
        signature=version.signature,
        remote=version.remote,
    )


def compare_versions(a: Version, b: Version) -> VersionComparison:
    ours, theirs = parameters_of(a), parameters_of(b)
    return VersionComparison(
        version_view(a),
        version_view(b),
        {name: b.metrics[name] - value for name, value in a.metrics.items() if name in b.metrics},
        {
            name: Difference(ours.get(name), theirs.get(name))
            for name in dict.fromkeys((*ours, *theirs))
            if ours.get(name) != theirs.get(name)
        },
        b.size - a.size,
        (a.created_ms - b.created_ms) / 1000,
    )


def model_view(model: RegisteredModel) -> ModelView:
    return ModelView(
        model=model.name,
        production=model.production,
        versions=[version_view(version) for version in model.versions.values()],
        history=[model_history_view(entry) for entry in model.history],
    )


def model_summary(model: RegisteredModel) -> ModelSummary:
    return ModelSummary(model.name, model.production, list(model.versions))


def model_history_view(entry: ModelHistoryEntry) -> ModelHistoryView:
    return ModelHistoryView(
        rfc3339(entry.at_ms), entry.who, entry.what, entry.version, entry.status, entry.reason
    )
