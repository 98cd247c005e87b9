"""Promotions in the registry's fold: one entry for a step and its change of the model, a bound, and sound states."""

from __future__ import annotations

import math

import msgspec
import pytest
from msgspec import UNSET

from bandit_serve.errors import NotFound, UnreadableEntry
from bandit_serve.experiments.spec import Ramp, Standing
from bandit_serve.log.events import encode
from bandit_serve.log.offset import Offset
from bandit_serve.log.snapshot import Codec
from bandit_serve.registry.promotions import (
    MAX_PROMOTIONS,
    Promotion,
    PromotionPlan,
    Promotions,
    RampPlan,
    StepTaken,
    next_id,
    present,
    promotion_in,
    with_promotion,
)
from bandit_serve.registry.registry import (
    PROMOTION,
    REVISIONS,
    ModelChanged,
    PromotionMoved,
    Registry,
    RegistryState,
    Version,
    decode_registry_event,
)

PLAN = PromotionPlan(offline="rmse < 1", ramp=RampPlan((0.1, 0.5)), experiment="e")


def promotion(number: int, **fields: object) -> Promotion:
    made = Promotion(
        id=f"p{number}",
        model="m",
        version="v2",
        former="v1",
        came_as="staged",
        plan=PLAN,
        who="me",
        began_ms=number,
        state="offline",
    )
    return msgspec.structs.replace(made, **fields)


def registry_with_versions() -> Registry:
    registry = Registry()
    versions = tuple(
        Version("m", name, status, "0" * 64, 1, "bias", created_ms=1, updated_ms=1)
        for name, status in (("v1", "production"), ("v2", "staged"))
    )
    registry.apply(Offset(1, 0), ModelChanged("m", versions, "v1", (), "register", "me"))
    return registry


def test_a_step_and_its_change_of_the_model_are_one_event() -> None:
    registry = registry_with_versions()
    change = registry.move("m", "v2", "production", now_ms=2, who="promotion:m/p1", because="promotion:m/p1")
    event = PromotionMoved(promotion(1, state="production", ended_ms=2), change)
    decoded = decode_registry_event(PROMOTION, encode(event))
    assert decoded == event
    before = registry.revision
    registry.apply(Offset(2, 0), decoded)
    assert registry.revision == before + 1
    assert PROMOTION in REVISIONS
    assert registry.models["m"].production == "v2"
    assert promotion_in(registry.promotions, "m", "p1").state == "production"
    restored = Registry.from_state(registry.offset, registry.state())
    assert (restored.promotions, restored.state()) == (registry.promotions, registry.state())


def test_without_promotions_a_state_is_as_it_was() -> None:
    codec, registry = Codec(RegistryState, "the registry"), registry_with_versions()
    assert "promotions" not in codec.content(registry.state())
    registry.promotions = with_promotion({}, promotion(1))
    assert "promotions" in codec.content(registry.state())


def test_the_last_ones_are_kept_and_those_that_are_open() -> None:
    promotions: Promotions = {}
    first = promotion(1, state="stopped", unsettled=True)
    promotions = with_promotion(promotions, first)
    for number in range(2, MAX_PROMOTIONS + 20):
        assert next_id(promotions["m"]) == f"p{number}"
        promotions = with_promotion(promotions, promotion(number))
        assert present(promotions["m"][1:]) == promotion(number)
        promotions = with_promotion(promotions, promotion(number, state="stopped"))
    assert len(promotions["m"]) == MAX_PROMOTIONS
    assert promotions["m"][0] == first
    assert present(promotions["m"]) == first
    assert present(promotions["m"][1:]) is None
    with pytest.raises(NotFound, match="no promotion 'p2'"):
        promotion_in({"m": ()}, "m", "p2")


@pytest.mark.parametrize(
    "unsound",
    [
        {"m": (promotion(1), promotion(1))},
        {"other": (promotion(1),)},
        {"m": (promotion(1, steps=5 * (StepTaken("offline", 1),)),)},
    ],
    ids=["twice", "of another model", "more steps than planned"],
)
def test_a_state_that_no_events_lead_to_is_refused(unsound: Promotions) -> None:
    registry = registry_with_versions()
    registry.promotions = unsound
    with pytest.raises(UnreadableEntry):
        Registry.from_state(registry.offset, registry.state())


def test_steps_are_in_their_order_and_come_one_after_the_other() -> None:
    assert [tuple(step) for step in PLAN.steps] == [
        ("offline", None),
        ("ramp", 0.1),
        ("ramp", 0.5),
        ("production", None),
    ]
    began = promotion(1, steps=(StepTaken("offline", 1),))
    assert began.to_come == PLAN.steps[1:]
    assert promotion(1, state="stopped").to_come == []
    assert not promotion(1, state="stopped").is_open


@pytest.mark.parametrize("held", [UNSET, 0.3])
def test_a_held_arm_has_at_most_what_its_ramp_and_its_hold_allow(held: float) -> None:
    standing = Standing(ramp=Ramp(0.1, "10s"), ramp_since_ms=0, held=held)
    most = 1.0 if held is UNSET else held
    for now_ms in range(0, 20_000, 500):
        risen = min(0.1 + 0.9 * now_ms / 10_000, 1.0)
        assert standing.cap(now_ms) == pytest.approx(min(risen, most))
        next_ms = standing.next_cap_ms(now_ms)
        assert next_ms > now_ms
        assert math.isinf(next_ms) == (risen >= most)
    assert Standing(held=0.3).cap(0) == 0.3
    assert math.isinf(Standing(held=0.3).next_cap_ms(0))
    assert Standing(held=0.3).is_capped
    assert not Standing().is_capped
