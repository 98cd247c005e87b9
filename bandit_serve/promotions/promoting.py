"""Changes of promotions: beginning one, going from step to step, and ending it. Each is one event, appended once."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType

from bandit_serve.errors import Conflict
from bandit_serve.node import Node
from bandit_serve.promotions.judgement import StepJudgement
from bandit_serve.promotions.plan_checks import possible
from bandit_serve.registry.promotions import (
    PlannedStep,
    Promotion,
    PromotionPlan,
    StepTaken,
    next_id,
    present,
    promotion_in,
)
from bandit_serve.registry.registry import ModelChanged, PromotionMoved, Registry, VersionStatus


class Promoting:
    """Changes of a node's promotions. A change of one that has changed meanwhile is left: methods return False then."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def begin(self, model: str, version: str, plan: PromotionPlan, who: str) -> Promotion:
        """Begins a promotion. The worker with the lease goes through its steps.

        Raises `NotFound` for the model, `InvalidInput` that names the field for a plan that is not possible, and
        `Conflict` where a promotion of the model is under way, or the version is in production.
        """
        registry = await self._node.model_changes.known()
        _require_none_open(registry, model)
        await possible(self._node, registry, model, version, plan)
        now_ms = await self._node.store.time_ms()

        def decide(registry: Registry) -> PromotionMoved:
            _require_none_open(registry, model)
            subject = registry.version(model, version)
            if subject.status not in ("staged", "shadow"):
                raise Conflict(f"The version {version!r} of {model!r} is {subject.status} now.")
            promotion = Promotion(
                id=next_id(registry.promotions.get(model, ())),
                model=model,
                version=version,
                former=registry.production(model).version,
                came_as="shadow" if subject.status == "shadow" else "staged",
                plan=plan,
                who=who,
                began_ms=now_ms,
                state=plan.steps[0].step,
            )
            return PromotionMoved(promotion)

        moved = await self._node.changes.move_promotion(decide)
        assert moved is not None
        return moved.promotion

    async def cancel(self, model: str, id: str, who: str, reason: str | None) -> Promotion:
        """Ends a promotion: the version has the status that it came with, and no traffic any more.

        Raises `NotFound`, and `Conflict` where it has ended.
        """
        now_ms = await self._node.store.time_ms()
        text = f"{who} has cancelled it" + (f": {reason}" if reason else ".")

        def decide(registry: Registry) -> PromotionMoved:
            former = promotion_in(registry.promotions, model, id)
            if not former.is_under_way:
                raise Conflict(f"The promotion {id} of {model!r} has ended: it is {former.state}.")
            taken = former.steps
            if taken:
                taken = (*taken[:-1], msgspec.structs.replace(taken[-1], ended_ms=now_ms, reason=text))
            now = msgspec.structs.replace(
                former,
                state="cancelled",
                steps=taken,
                ended_ms=now_ms,
                reason=text,
                unsettled=_has_arm(former) or UNSET,
            )
            return _moved(registry, former, now, now_ms, who)

        await self._node.model_changes.known()
        moved = await self._node.changes.move_promotion(decide)
        assert moved is not None
        return moved.promotion

    async def enter(self, former: Promotion, before: Mapping[str, float]) -> bool:
        """Enters the first step. `before`: the counts that later ones are compared with."""
        now_ms = await self._node.store.time_ms()
        step = former.plan.steps[0]
        now = msgspec.structs.replace(former, steps=(_taken(step, now_ms, before),))
        return await self._move(former, now, now_ms)

    async def advance(self, former: Promotion, judgement: StepJudgement, before: Mapping[str, float]) -> bool:
        """Leaves a step that was passed and enters the next one, which is not production."""
        now_ms = await self._node.store.time_ms()
        step = former.to_come[0]
        taken = (*_left(former, judgement, now_ms), _taken(step, now_ms, before))
        now = msgspec.structs.replace(former, state=step.step, steps=taken)
        return await self._move(former, now, now_ms)

    async def complete(self, former: Promotion, judgement: StepJudgement) -> bool:
        """Leaves the last step before production, and puts the version there."""
        now_ms = await self._node.store.time_ms()
        reason = f"{former.version} took the place of {former.former}."
        last = StepTaken(
            step="production",
            began_ms=now_ms,
            ended_ms=now_ms,
            passed=True,
            reason=reason,
            evidence={"former": former.former},
        )
        now = msgspec.structs.replace(
            former,
            state="production",
            steps=(*_left(former, judgement, now_ms), last),
            ended_ms=now_ms,
            reason=reason,
            unsettled=_has_arm(former) or UNSET,
        )
        return await self._move(former, now, now_ms)

    async def stop(self, former: Promotion, judgement: StepJudgement) -> bool:
        """Ends a promotion at the step where it is, which was not passed."""
        now_ms = await self._node.store.time_ms()
        now = msgspec.structs.replace(
            former,
            state="stopped",
            steps=_left(former, judgement, now_ms),
            ended_ms=now_ms,
            reason=judgement.reason,
            unsettled=_has_arm(former) or UNSET,
        )
        return await self._move(former, now, now_ms)

    async def settled(self, former: Promotion) -> bool:
        """Notes that nothing is left to be done for a promotion that has ended."""
        now_ms = await self._node.store.time_ms()
        return await self._move(former, msgspec.structs.replace(former, unsettled=UNSET), now_ms)

    async def _move(self, former: Promotion, now: Promotion, now_ms: int) -> bool:
        def decide(registry: Registry) -> PromotionMoved | None:
            if promotion_in(registry.promotions, former.model, former.id) != former:
                return None
            return _moved(registry, former, now, now_ms, former.actor)

        return await self._node.changes.move_promotion(decide) is not None


def _require_none_open(registry: Registry, model: str) -> None:
    registry.model(model)
    former = present(registry.promotions.get(model, ()))
    if former is None:
        return
    if former.is_under_way:
        raise Conflict(
            f"The promotion {former.id} of {model!r} is under way, with {former.version}: wait for its end, or "
            "cancel it."
        )
    raise Conflict(
        f"The promotion {former.id} of {model!r} has ended, and its arm is still to be taken back: try again soon."
    )


def _taken(step: PlannedStep, now_ms: int, before: Mapping[str, float]) -> StepTaken:
    share: float | UnsetType = UNSET if step.share is None else step.share
    return StepTaken(step=step.step, began_ms=now_ms, share=share, before=dict(before) or UNSET)


def _left(promotion: Promotion, judgement: StepJudgement, now_ms: int) -> tuple[StepTaken, ...]:
    taken = promotion.steps
    if not taken:
        return taken
    last = msgspec.structs.replace(
        taken[-1],
        ended_ms=now_ms,
        passed=judgement.passed,
        reason=judgement.reason,
        evidence=judgement.evidence,
    )
    return (*taken[:-1], last)


def _has_arm(promotion: Promotion) -> bool:
    return bool(promotion.steps) and promotion.steps[-1].step == "ramp"


def _moved(registry: Registry, former: Promotion, now: Promotion, now_ms: int, who: str) -> PromotionMoved:
    return PromotionMoved(now, _model_change(registry, former, now, now_ms, who) or UNSET)


def _model_change(
    registry: Registry, former: Promotion, now: Promotion, now_ms: int, who: str
) -> ModelChanged | None:
    """Change of the version's status that belongs to a step; None where it has that."""
    status = registry.version(now.model, now.version).status
    wanted: VersionStatus = now.came_as
    if now.state == "production":
        if former.state == "production":
            return None
        if registry.models[now.model].production != now.former:
            raise Conflict(f"{now.former!r} of {now.model!r} is not in production any more.")
        wanted = "production"
    elif now.state == "shadow":
        wanted = "shadow"
    elif not now.is_under_way and (former.state != "shadow" or status != "shadow"):
        # Whatever it was made meanwhile, it stays.
        return None
    if status == wanted:
        return None
    return registry.move(
        now.model,
        now.version,
        wanted,
        now_ms=now_ms,
        who=who,
        reason=now.reason if isinstance(now.reason, str) else f"It is at the step {now.state} of {now.id}.",
        because=now.actor if wanted == "production" else None,
    )
