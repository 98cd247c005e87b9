"""Canary: a version as an arm of an experiment that runs, with a ramp and a guardrail that pauses it by itself."""

from __future__ import annotations

from msgspec import UNSET

from bandit_serve.api.deployments import Canary, CanaryRequest
from bandit_serve.changes.guardrails import asked_guardrails, guardrail_of, guards, missing_guardrail
from bandit_serve.deployments.deployments import STATUSES
from bandit_serve.errors import Conflict
from bandit_serve.experiments.spec import Arm, Record
from bandit_serve.node import Node


async def start_canary(node: Node, request: CanaryRequest, who: str) -> Canary:
    """Gives a version an arm, once: what was begun before is found, and shown.

    Raises `NotFound` for the version or the experiment, and `Conflict` where the experiment does not run, has another
    metric of the guardrail's name, or has another arm of this name.
    """
    given = request.guardrail
    if given is not UNSET:
        guardrail_of(given)
    changes = node.experiment_changes
    record = (await changes.known(request.experiment)).record
    (await node.model_changes.known()).version(request.model, request.version)
    arm = Arm(request.arm or f"canary-{request.version}"[:128], request.model, request.version)
    if arm not in record.experiment.arms:
        if record.status != "running":
            raise Conflict(
                f"The experiment {request.experiment!r} is {record.status}; a canary needs one that is running."
            )
        asked = asked_guardrails(record.experiment, UNSET if given is UNSET else (given,))
        missing = [missing_guardrail(record.experiment, each) for each in asked]
        live = await changes.add_arm(
            request.experiment,
            arm,
            who,
            ramp=request.ramp,
            guardrails=[metric for metric in missing if metric is not None],
            reason=f"A canary of {request.model} {request.version}.",
        )
        record = live.record
    await _move(node, request, who)
    watched = ", ".join(guards(record.experiment)) if given is UNSET else given
    return canary_view(record, arm, watched)


async def _move(node: Node, request: CanaryRequest, who: str) -> None:
    """Moves the version to the status of its environment, if one is named and it is not there."""
    if request.environment is None:
        return
    status = STATUSES[request.environment]
    version = (await node.model_changes.known()).version(request.model, request.version)
    if version.status != status:
        await node.model_changes.set_status(
            request.model, request.version, status, who, reason=f"It is a canary in {request.experiment}."
        )


def canary_view(record: Record, arm: Arm, guardrail: str) -> Canary:
    assert arm.model is not None
    assert arm.version is not None
    paused = record.arm_statuses[arm.name] != "active"
    return Canary(record.experiment.id, arm.name, arm.model, arm.version, guardrail, paused)
