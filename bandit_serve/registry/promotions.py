"""Promotions in the registry: of each model the last ones, and the one under way, with the evidence of their steps.

A step is left, and the next one entered, by one event, which has the version's change of status with it. So a step is
passed once, whoever judges it at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.durations import Duration, parse_duration_ms
from bandit_serve.base.names import Name
from bandit_serve.errors import NotFound
from bandit_serve.experiments.metric import Metric

MAX_PROMOTIONS = 50
"""Promotions that are kept of each model: of those that have ended, the last."""
MAX_RAMP_STEPS = 20
MAX_GUARDRAILS = 8
MAX_SHADOW_REQUESTS = 10_000_000
MAX_GATE_CHARS = 1_000

PromotionStep = Literal["offline", "shadow", "ramp", "production"]
PromotionState = Literal["offline", "shadow", "ramp", "production", "stopped", "cancelled"]
UNDER_WAY: tuple[PromotionState, ...] = ("offline", "shadow", "ramp")

GateText = Annotated[str, Meta(min_length=1, max_length=MAX_GATE_CHARS)]
RampShare = Annotated[float, Meta(gt=0.0, le=1.0)]
GuardrailText = Annotated[str, Meta(min_length=1, max_length=256)]


class ShadowPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """Step in which the version scores `requests` in the background, and is then held to `gate`."""

    requests: Annotated[int, Meta(ge=1, le=MAX_SHADOW_REQUESTS)]
    gate: GateText


class RampPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """Steps in which the version gets at most a share of the experiment's traffic, each for the time `each`.

    `guardrails` name metrics and the loss that they allow, as that of a canary, or are metrics with a margin. Without
    them `error=0.05` watches the arm, or the guardrail `error` that the experiment has, beside its others.
    """

    steps: Annotated[tuple[RampShare, ...], Meta(min_length=1, max_length=MAX_RAMP_STEPS)] = (
        0.01,
        0.05,
        0.2,
        0.5,
    )
    each: Duration = "1h"
    guardrails: Annotated[tuple[GuardrailText | Metric, ...], Meta(max_length=MAX_GUARDRAILS)] | UnsetType = (
        UNSET
    )

    @property
    def each_ms(self) -> int:
        return parse_duration_ms(self.each)


class PlannedStep(NamedTuple):
    """Step of a plan. `share` is the most that the version gets of the traffic in a step of the ramp."""

    step: PromotionStep
    share: float | None = None


class PromotionPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """Way of a version into production: `offline`, `shadow`, `ramp`, as far as they are there, and then production.

    `offline` is a gate on what is known of the version. `experiment` is where the ramp is, and whose log an `offline`
    gate may ask.
    """

    offline: GateText | UnsetType = UNSET
    shadow: ShadowPlan | UnsetType = UNSET
    ramp: RampPlan | UnsetType = UNSET
    experiment: Name | UnsetType = UNSET

    @property
    def steps(self) -> list[PlannedStep]:
        """All steps, in their order. The last one is production."""
        steps: list[PlannedStep] = []
        if self.offline is not UNSET:
            steps.append(PlannedStep("offline"))
        if self.shadow is not UNSET:
            steps.append(PlannedStep("shadow"))
        if self.ramp is not UNSET:
            steps += [PlannedStep("ramp", share) for share in self.ramp.steps]
        return [*steps, PlannedStep("production")]


class StepTaken(Struct, frozen=True, forbid_unknown_fields=True):
    """Step that was entered at `began_ms`, Unix time, and left at `ended_ms`, with or without having `passed`.

    `before` has the counts at its beginning that the later ones are compared with. `evidence`: names and numbers, as
    JSON.
    """

    step: PromotionStep
    began_ms: int
    share: float | UnsetType = UNSET
    before: dict[str, float] | UnsetType = UNSET
    ended_ms: int | UnsetType = UNSET
    passed: bool | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    evidence: dict[str, Any] | UnsetType = UNSET


class Promotion(Struct, frozen=True, forbid_unknown_fields=True):
    """Promotion of a version, which is compared with `former`, the one in production when it began.

    `state` is the step it is at, `production` once the version is there, or how else it ended. `came_as` is the
    version's status before. `unsettled`: it has ended, and its arm in the experiment is still to be taken back.
    """

    id: Name
    model: Name
    version: Name
    former: Name
    came_as: Literal["staged", "shadow"]
    plan: PromotionPlan
    who: str
    began_ms: int
    state: PromotionState
    steps: tuple[StepTaken, ...] = ()
    ended_ms: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    unsettled: bool | UnsetType = UNSET

    @property
    def is_under_way(self) -> bool:
        return self.state in UNDER_WAY

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done for it."""
        return self.is_under_way or self.unsettled is True

    @property
    def actor(self) -> str:
        """Author of its changes, in histories."""
        return f"promotion:{self.model}/{self.id}"

    @property
    def arm(self) -> str:
        """Name of the arm that the version gets, where it has none."""
        return f"{self.id}-{self.model}-{self.version}"[:128]

    @property
    def to_come(self) -> list[PlannedStep]:
        """Steps that were not entered yet; none once it has ended."""
        if not self.is_under_way:
            return []
        return self.plan.steps[len(self.steps) :]


Promotions = dict[Name, tuple[Promotion, ...]]
"""Promotions by model, the oldest first."""


def with_promotion(promotions: Mapping[str, tuple[Promotion, ...]], changed: Promotion) -> Promotions:
    """Promotions with one that is new, or as it is now."""
    known = promotions.get(changed.model, ())
    ids = [each.id for each in known]
    if changed.id in ids:
        place = ids.index(changed.id)
        now = (*known[:place], changed, *known[place + 1 :])
    else:
        now = (*known, changed)
    ended = [each.id for each in now if not each.is_open]
    dropped = set(ended[: max(len(now) - MAX_PROMOTIONS, 0)])
    return {**promotions, changed.model: tuple(each for each in now if each.id not in dropped)}


def require_sound_promotions(promotions: Promotions) -> None:
    """Raises `ValueError` for promotions that no events lead to."""
    for model, those in promotions.items():
        if len({each.id for each in those}) < len(those) or any(each.model != model for each in those):
            raise ValueError("a promotion is there twice, or at another model than its own")
        if any(len(each.steps) > len(each.plan.steps) for each in those):
            raise ValueError("a promotion has taken more steps than its plan has")


def next_id(known: tuple[Promotion, ...]) -> str:
    """Name of a model's next promotion: `p1`, `p2`, …"""
    return f"p{int(known[-1].id.removeprefix('p')) + 1}" if known else "p1"


def present(known: tuple[Promotion, ...]) -> Promotion | None:
    """Promotion of a model that is open; there is one at most."""
    return next((each for each in known if each.is_open), None)


def promotion_in(promotions: Mapping[str, tuple[Promotion, ...]], model: str, id: str) -> Promotion:
    """Promotion of a model; raises `NotFound`."""
    for each in promotions.get(model, ()):
        if each.id == id:
            return each
    raise NotFound(f"The model {model!r} has no promotion {id[:128]!r}.")
