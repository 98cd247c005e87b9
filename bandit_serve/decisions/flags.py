"""Experiments as flags: an arm with the reason for it, for one experiment or for all at once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from msgspec import UNSET, UnsetType

from bandit_serve.api.decisions import Context, DecideRequest, ModelName, OutsideReason
from bandit_serve.api.flags import Flag, FlagMetadata, Reason
from bandit_serve.base.clock import Clock, now_ms
from bandit_serve.base.names import check_outside
from bandit_serve.base.turns import Turn
from bandit_serve.decisions.control_decider import ControlDecider
from bandit_serve.decisions.decider import Choice, Decider
from bandit_serve.decisions.decisions import Decisions
from bandit_serve.errors import FieldError, InvalidInput, NotFound
from bandit_serve.log.events import ON_DEMAND

REASONS: Mapping[str, Reason] = {"running": "SPLIT", "paused": "DISABLED", "stopped": "STATIC"}
KEY_PLACE = "context.targetingKey"
KINDS = "expected a number, a text, true, false or null"
NUMERIC = "expected a number, true, false or null"


class Assigned(NamedTuple):
    """Arm of one experiment for a unit; neither logged nor signed yet."""

    decider: Decider | ControlDecider
    choice: Choice


class Flags:
    """Flags of one worker.

    `all_for` gives an assignment for each experiment, of which nothing is logged. `signed` makes flags of them, whose
    decisions become exposures on demand: they are numbered from `ON_DEMAND` in an incarnation of their own.
    """

    def __init__(self, decisions: Decisions, clock: Clock = now_ms) -> None:
        self._decisions = decisions
        self._now_ms = clock
        self._incarnation = secrets.randbits(64)
        self._next: dict[int, int] = {}

    def needs_unit(self, experiment: str) -> bool:
        """Whether an experiment assigns users, or is in a layer. Raises `NotFound` for one that is no flag, too."""
        decider = self._decisions.decider(experiment)
        if decider.status == "draft":
            raise NotFound(f"There is no flag {experiment!r}: the experiment is a draft.")
        if not decider.decides:
            raise NotFound(f"There is no flag {experiment!r}: the experiment gives lists.")
        return decider.needs_unit

    def evaluate(self, experiment: str, unit: str | None, context: Mapping[str, Any]) -> Flag:
        """Decides as `Decisions.decide`, with those values of `context` that the experiment names."""
        decider = self._decisions.decider(experiment)
        if unit is not None:
            check_outside(unit, KEY_PLACE)
        named = _named(decider, context)
        decided = self._decisions.decide(experiment, DecideRequest(unit, named or None))
        return _flag(
            decider,
            decided.arm,
            decided.payload,
            decided.propensity,
            decided.decision_id,
            decided.model,
            decided.reason,
        )

    async def all_for(self, unit: str, context: Mapping[str, Any]) -> list[Assigned]:
        """Assignments of a unit, by name of experiment.

        Left out are drafts, experiments that do not assign users, and those with a field that `context` lacks.
        """
        check_outside(unit, KEY_PLACE)
        assignments, turn = [], Turn()
        for name in self._decisions.names():
            decider = self._decisions.find(name)
            if decider is not None and _is_for(decider, context):
                named = _named(decider, context)
                x = decider.encoded(named)
                assignments.append(Assigned(decider, decider.choose(unit, None, x, named)))
            if turn.over:
                await turn.give_way()
        return assignments

    def signed(self, assignment: Assigned) -> Flag:
        """Flag of an assignment, with a decision that becomes an exposure on demand where one was drawn."""
        decider, choice = assignment
        token = None
        if isinstance(decider, Decider) and choice.draw is not None:
            number = self._next.get(decider.uid, ON_DEMAND)
            self._next[decider.uid] = number + 1
            token = decider.sign_demanded(
                choice, self._decisions.keyring, self._now_ms(), self._incarnation, number
            )
        arm = choice.arm
        return _flag(
            decider,
            decider.arm_names[arm],
            decider.payloads[arm],
            choice.propensity,
            token,
            decider.models[arm],
            choice.reason,
        )

    def version_of(self, assignments: list[Assigned]) -> str:
        """Digest of arms and configurations, as hexadecimal digits.

        It changes as well when half of an attribution window has passed: whoever keeps flags for as long as this is the
        same has no decisions that are too late for a reward.
        """
        digest, time_ms = blake2b(digest_size=16), self._now_ms()
        for decider, choice in assignments:
            half = 2 * time_ms // decider.window_ms if isinstance(decider, Decider) and choice.draw else 0
            part: tuple[Any, ...] = (
                decider.id,
                decider.uid,
                decider.revision,
                decider.status,
                choice.arm,
                half,
            )
            if choice.reason is not UNSET:
                part += (choice.reason,)
            digest.update(repr(part).encode())
        return digest.hexdigest()

    def forget(self, experiment: str, uid: int | None) -> None:
        """Forgets the numbers of an experiment that was deleted."""
        if uid is not None:
            self._next.pop(uid, None)


def _is_for(decider: Decider | ControlDecider, context: Mapping[str, Any]) -> bool:
    """Whether an experiment assigns users who need not say more than `context` does."""
    return (
        decider.status != "draft"
        and decider.decides
        and decider.sticky
        and decider.context_fields <= context.keys()
    )


def _named(decider: Decider | ControlDecider, context: Mapping[str, Any]) -> Context:
    """Values of the fields that an experiment names. Raises `InvalidInput` for those of a wrong type."""
    named = {name: context[name] for name in sorted(decider.attributes) if name in context}
    numeric = _numeric_fields(decider)
    for name, value in named.items():
        is_wrong_text = isinstance(value, str) and name in numeric
        if is_wrong_text or not isinstance(value, float | int | str | bool | None):
            at, detail = f"context.{name}", NUMERIC if name in numeric else KINDS
            raise InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
    return named


def _numeric_fields(decider: Decider | ControlDecider) -> set[str]:
    fields = () if decider.features is None else decider.features.fields
    return {field.name for field in fields if field.kind == "numeric"}


def _flag(
    decider: Decider | ControlDecider,
    arm: str,
    payload: Any,
    propensity: float,
    token: str | None,
    model: ModelName | None,
    outside: OutsideReason | UnsetType,
) -> Flag:
    is_drawn = outside is UNSET and not isinstance(decider, ControlDecider)
    reason: Reason = REASONS[decider.status] if is_drawn else "DEFAULT"
    metadata = FlagMetadata(
        decider.id,
        propensity,
        UNSET if token is None else token,
        UNSET if model is None else model.id,
        UNSET if model is None else model.version,
        outside,
    )
    return Flag(decider.id, arm if payload is None else payload, arm, reason, metadata)
