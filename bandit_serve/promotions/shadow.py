"""Shadow step: how a version answers the requests for its model, beside the one that answers them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bandit_serve.node import Node
from bandit_serve.promotions.judgement import StepJudgement
from bandit_serve.registry.agreement import Agreement, report
from bandit_serve.registry.promotions import Promotion, ShadowPlan
from bandit_serve.training.gates import Gate

SHADOW_FACTS = (
    "requests",
    "errors",
    "dropped",
    "latency_ms",
    "correlation",
    "overlap",
    "mean_difference",
    "mean_absolute_difference",
    "rms_difference",
)
"""Names in the gate. `errors` and `dropped` are parts of the requests, `latency_ms` is the mean of a request's."""


async def sums_of(node: Node, model: str, version: str) -> dict[str, float]:
    """Sums of all workers' agreement with a shadow."""
    sums = Agreement()
    for state in await node.store.agreements(model, version):
        sums = sums.plus(msgspec.msgpack.decode(state, type=Agreement))
    return {name: float(getattr(sums, name)) for name in Agreement.__struct_fields__}


def since(before: Mapping[str, float], now: Mapping[str, float]) -> Agreement:
    """Agreement since the counts of `before`; of everything where they are gone, as nothing was asked for long."""
    began = before if now["requests"] >= before.get("requests", 0.0) else {}
    nothing = Agreement()
    return Agreement(
        *(
            type(getattr(nothing, name))(now[name] - began.get(name, 0.0))
            for name in Agreement.__struct_fields__
        )
    )


async def judge_shadow(node: Node, promotion: Promotion) -> StepJudgement | None:
    """Judges what the shadow answered since the step began; None before it has answered as often as is planned."""
    plan, step = promotion.plan.shadow, promotion.steps[-1]
    assert isinstance(plan, ShadowPlan)
    before = step.before if isinstance(step.before, dict) else {}
    sums = since(before, await sums_of(node, promotion.model, promotion.version))
    if sums.requests < plan.requests:
        return None
    told = report(promotion.model, promotion.version, sums)
    facts = {
        "requests": float(sums.requests),
        "errors": sums.failed / sums.requests,
        "dropped": sums.dropped / (sums.requests + sums.dropped),
        "latency_ms": told.mean_latency_ms,
        "correlation": told.correlation,
        "overlap": told.overlap,
        "mean_difference": told.mean_difference,
        "mean_absolute_difference": told.mean_absolute_difference,
        "rms_difference": told.rms_difference,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    verdict = Gate(plan.gate).check(known, "", None, strict=True)
    return StepJudgement(verdict.open, f"{verdict.reason}.", {"gate": plan.gate, **known})
