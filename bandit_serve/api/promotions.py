"""Promotions as callers see them, over HTTP and on the command line."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.clock import rfc3339
from bandit_serve.base.names import Name
from bandit_serve.registry.promotions import (
    Promotion,
    PromotionPlan,
    PromotionState,
    PromotionStep,
    RampPlan,
    ShadowPlan,
    StepTaken,
)


class PromotionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Version that is to go into production, and the way there."""

    version: Name
    plan: PromotionPlan


class CancelRequest(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(max_length=1_000)] | None = None


class StepView(Struct, frozen=True):
    """Step that was entered. `passed` is null while it goes on, and where the promotion was cancelled meanwhile.

    `evidence` has the names and numbers that it was judged by.
    """

    step: PromotionStep
    began_at: str
    ended_at: str | None
    passed: bool | None
    reason: str | None
    evidence: dict[str, Any]
    share: float | UnsetType = UNSET


class NextStep(Struct, frozen=True):
    """Next step, and what has to come before it. `at` is the earliest time of it, where that is known."""

    step: PromotionStep
    detail: str
    share: float | UnsetType = UNSET
    at: str | UnsetType = UNSET


class PromotionView(Struct, frozen=True):
    """Promotion of a version, which is compared with `former`, the version in production when it began.

    `state` is the step that it is at; `production` when the version is there; `stopped` or `cancelled` where it ended
    before. `next` is null once it has ended.
    """

    id: str
    model: str
    version: str
    former: str
    state: PromotionState
    plan: PromotionPlan
    steps: list[StepView]
    next: NextStep | None
    who: str
    began_at: str
    ended_at: str | None
    reason: str | None


class PromotionList(Struct, frozen=True):
    """Promotions of a model, the newest first: the last ones that there were."""

    promotions: list[PromotionView]


def promotion_view(promotion: Promotion) -> PromotionView:
    return PromotionView(
        id=promotion.id,
        model=promotion.model,
        version=promotion.version,
        former=promotion.former,
        state=promotion.state,
        plan=promotion.plan,
        steps=[_step_view(step) for step in promotion.steps],
        next=_next(promotion),
        who=promotion.who,
        began_at=rfc3339(promotion.began_ms),
        ended_at=_time(promotion.ended_ms),
        reason=promotion.reason or None,
    )


def _step_view(step: StepTaken) -> StepView:
    return StepView(
        step=step.step,
        began_at=rfc3339(step.began_ms),
        ended_at=_time(step.ended_ms),
        passed=None if step.passed is UNSET else step.passed,
        reason=step.reason or None,
        evidence=step.evidence or {},
        share=step.share,
    )


def _next(promotion: Promotion) -> NextStep | None:
    if not promotion.to_come:
        return None
    planned = promotion.to_come[0]
    share: float | UnsetType = UNSET if planned.share is None else planned.share
    if not promotion.steps:
        return NextStep(planned.step, "The worker with the lease begins it.", share)
    step, plan = promotion.steps[-1], promotion.plan
    if step.step == "offline":
        return NextStep(planned.step, f"The gate has to be open: {plan.offline}", share)
    if step.step == "shadow":
        assert isinstance(plan.shadow, ShadowPlan)
        detail = (
            f"It has to score {plan.shadow.requests:,} requests, and the gate to be open: {plan.shadow.gate}"
        )
        return NextStep(planned.step, detail, share)
    assert isinstance(plan.ramp, RampPlan)
    detail = (
        f"The arm has to have at most {step.share:g} of the traffic for {plan.ramp.each} without harm to a guardrail "
        "or the objective, and in the proportions that were logged."
    )
    return NextStep(planned.step, detail, share, rfc3339(step.began_ms + plan.ramp.each_ms))


def _time(at_ms: int | UnsetType) -> str | None:
    return None if at_ms is UNSET else rfc3339(at_ms)
