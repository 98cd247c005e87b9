"""Checks of plans before anything is changed: what a step needs, and whether this model and experiment have it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from msgspec import UNSET

from bandit_serve.changes.guardrails import asked_guardrails, missing_guardrail
from bandit_serve.changes.models import require_name
from bandit_serve.errors import (
    BanditServeError,
    Conflict,
    FieldError,
    InvalidInput,
    NotFound,
    NotInstalled,
    StoreUnavailable,
)
from bandit_serve.experiments.checks import with_arm
from bandit_serve.experiments.policy import from_experiment
from bandit_serve.experiments.spec import Arm, Record
from bandit_serve.node import Node
from bandit_serve.promotions.offline import OFF_POLICY, OFF_POLICY_FACTS, arms_with, asks_log, compared_metric
from bandit_serve.promotions.shadow import SHADOW_FACTS
from bandit_serve.registry.promotions import PromotionPlan, RampPlan, ShadowPlan
from bandit_serve.registry.registry import Registry, Version
from bandit_serve.results.floors import unfloored
from bandit_serve.training.gates import CURRENT, Gate

MIN_EACH_MS, MAX_EACH_MS = 1, 90 * 86_400_000


async def possible(node: Node, registry: Registry, model: str, version: str, plan: PromotionPlan) -> None:
    """Raises `InvalidInput` that names the field where a version can not go the way of a plan.

    Raises `NotFound` for the model, and `Conflict` where the version is in production.
    """
    former = await _compared(node, registry, model, version)
    subject = registry.version(model, version)
    if len(plan.steps) == 1:
        raise _mistake("plan", "expected offline, shadow or ramp, one of them at least")
    record: Record | None = None
    if isinstance(plan.experiment, str):
        record = await _record(node, plan.experiment)
        _require_serves(record, model, former.version)
    if isinstance(plan.offline, str):
        _require_offline(await _gate(plan.offline, "plan.offline"), subject, former, record)
    if isinstance(plan.shadow, ShadowPlan):
        _require_shadow(await _gate(plan.shadow.gate, "plan.shadow.gate"))
    if isinstance(plan.ramp, RampPlan):
        if record is None:
            raise _mistake("plan.experiment", "expected an experiment, where the ramp is to be")
        _require_ramp(plan.ramp, record)
        _require_open(record, model, version)
        _require_room(record, model, version)
        _require_above_holdout(plan.ramp, record, model, version)


async def _compared(node: Node, registry: Registry, model: str, version: str) -> Version:
    """Version in production, which the new one is compared with. The new one is there, and can be loaded."""
    known = registry.model(model)
    require_name("version", version)
    subject = known.versions.get(version)
    if subject is None:
        raise _mistake("version", f"expected a version that {model!r} has, not {version!r}")
    if known.production is None:
        raise _mistake(
            "version",
            f"expected one to compare with, and {model!r} has no version in production: promote one",
        )
    if subject.status == "production":
        raise Conflict(f"The version {version!r} of {model!r} is in production already.")
    if subject.pruned or subject.status not in ("staged", "shadow"):
        status = "pruned" if subject.pruned else subject.status
        raise _mistake("version", f"expected one that is staged or a shadow, and {version!r} is {status}")
    try:
        await node.models.load(subject)
    except StoreUnavailable:
        raise
    except BanditServeError as error:
        detail = f"expected one that can be loaded: {str(error).rstrip('.')}"
        raise _mistake("version", detail) from None
    return known.versions[known.production]


async def _record(node: Node, experiment: str) -> Record:
    try:
        return (await node.experiment_changes.known(experiment)).record
    except NotFound:
        detail = f"expected an experiment that there is, not {experiment!r}"
        raise _mistake("plan.experiment", detail) from None


def _require_serves(record: Record, model: str, former: str) -> None:
    experiment = record.experiment
    control = experiment.arms[experiment.control_arm]
    if (control.model, control.version) != (model, former):
        serves = f"{control.model} {control.version}" if control.model else "no model"
        raise _mistake(
            "plan.experiment",
            f"expected one whose control serves {model} {former}, which is in production; that of "
            f"{experiment.id} serves {serves}",
        )


def _require_offline(gate: Gate, version: Version, former: Version, record: Record | None) -> None:
    at = "plan.offline"
    if gate.compares and compared_metric(version, former) is None:
        raise _mistake(at, "expected a metric by its name: the versions have not one metric to be worse on")
    wrong = next(
        (name for name in sorted(gate.names) if OFF_POLICY in name and name not in OFF_POLICY_FACTS), None
    )
    if wrong is not None:
        raise _mistake(at, f"expected one of {', '.join(OFF_POLICY_FACTS)}, not {wrong}")
    measured = version.metrics.keys() | former.metrics.keys()
    _require_known(gate, {*measured, *(f"{CURRENT}{name}" for name in measured), *OFF_POLICY_FACTS}, at)
    if not asks_log(gate):
        return
    if record is None:
        raise _mistake("plan.experiment", "expected an experiment, whose log the offline gate asks")
    if record.experiment.objective.is_ratio:
        raise _mistake("plan.experiment", "expected an objective that decisions have a value of, not a ratio")
    if not arms_with(record.experiment, version.model, version.version):
        raise _mistake(
            at,
            f"expected no off_policy: no arm of {record.experiment.id} has {version.model} {version.version}, so "
            "its log can not say what that would have earned",
        )


def _require_shadow(gate: Gate) -> None:
    at = "plan.shadow.gate"
    if gate.compares:
        raise _mistake(at, f"expected one of {', '.join(SHADOW_FACTS)}, and a comparison")
    _require_known(gate, SHADOW_FACTS, at)


def _require_ramp(ramp: RampPlan, record: Record) -> None:
    for i, (share, before) in enumerate(zip(ramp.steps[1:], ramp.steps, strict=False), 1):
        if share <= before:
            raise _mistake(f"plan.ramp.steps[{i}]", f"expected more than {before:g}, the step before it")
    if not MIN_EACH_MS <= ramp.each_ms <= MAX_EACH_MS:
        raise _mistake("plan.ramp.each", "expected a duration above 0, and 90d at most")
    names: list[str] = []
    for i, given in enumerate(asked_guardrails(record.experiment, ramp.guardrails)):
        at = "plan.ramp.guardrails" if ramp.guardrails is UNSET else f"plan.ramp.guardrails[{i}]"
        names.append(given.partition("=")[0] if isinstance(given, str) else given.name)
        if names[-1] in names[:-1]:
            raise _mistake(at, f"expected another metric: {names[-1]} is there already")
        try:
            missing_guardrail(record.experiment, given, at)
        except Conflict as error:
            raise _mistake(at, str(error).rstrip(".")) from None


def _require_open(record: Record, model: str, version: str) -> None:
    """Raises `InvalidInput` where the experiment can not give the version an arm."""
    at, name = "plan.experiment", record.experiment.id
    if record.status != "running":
        raise _mistake(at, f"expected one that runs, and {name} is {record.status}")
    if record.experiment.stopping.horizon:
        raise _mistake(at, f"expected one that may get another arm, and {name} is on its way to a fixed end")
    if record.experiment.interleaves:
        raise _mistake(at, f"expected one that draws arms, and {name} interleaves lists")
    if record.experiment.slots is not UNSET:
        raise _mistake(at, f"expected one that draws an arm a request, and {name} has slots")
    if unfloored(record.experiment.policy):
        raise _mistake(
            at,
            f"expected one whose policy has a min_share above 0 or a holdout, and that of {name} has none: without a "
            "floor no interval is valid, so nothing could be judged",
        )
    statuses = record.arm_statuses
    there = _arms_of(record, model, version)
    paused = [arm for arm in there if statuses[arm] == "paused"]
    if paused:
        raise _mistake(at, f"expected one that serves the version, and its arm {paused[0]} is paused")
    if len(there) > 1:
        raise _mistake(
            at, f"expected one with one arm of the version at most, and {name} has {', '.join(there)}"
        )
    if there and record.experiment.keeps_assigned:
        raise _mistake(
            at,
            f"expected one without keep_assigned, or without an arm of the version: units keep the arm {there[0]} of "
            f"{name}, whatever its share is",
        )


def _require_room(record: Record, model: str, version: str) -> None:
    """Raises `InvalidInput` where the version has no arm, and the experiment can have no other one."""
    if _arms_of(record, model, version):
        return
    statuses = record.arm_statuses
    try:
        # Whatever its name will be, no arm has it yet.
        name = next(f"p{n}" for n in range(len(statuses) + 1) if f"p{n}" not in statuses)
        from_experiment(with_arm(record.experiment, Arm(name, model, version)))
    except InvalidInput as error:
        detail = f"expected one that can have another arm: {str(error).rstrip('.')}"
        raise _mistake("plan.experiment", detail) from None


def _require_above_holdout(ramp: RampPlan, record: Record, model: str, version: str) -> None:
    """Raises `InvalidInput` at a step with less than the arm gets of the holdout, which no bound makes less."""
    active = sum(status == "active" for status in record.arm_statuses.values())
    n_arms = active if _arms_of(record, model, version) else active + 1
    even = (record.experiment.policy.holdout or 0.0) / n_arms
    for i, share in enumerate(ramp.steps):
        if share < even:
            detail = f"expected {even:.3g} or more, which the holdout of {record.experiment.id} gives each arm anyway"
            raise _mistake(f"plan.ramp.steps[{i}]", detail)


def _arms_of(record: Record, model: str, version: str) -> list[str]:
    """Arms of a version that were not removed."""
    statuses = record.arm_statuses
    return [arm for arm in arms_with(record.experiment, model, version) if statuses[arm] != "removed"]


async def _gate(text: str, at: str) -> Gate:
    """Gate, compiled off the loop: a long one takes a tenth of a second."""
    try:
        return await asyncio.to_thread(Gate, text)
    except NotInstalled:
        raise
    except InvalidInput as error:
        raise _mistake(at, str(error).rstrip(".")) from None


def _require_known(gate: Gate, names: Collection[str], at: str) -> None:
    try:
        gate.require_known(names)
    except InvalidInput as error:
        raise _mistake(at, str(error).rstrip(".")) from None


def _mistake(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
