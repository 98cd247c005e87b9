"""Bodies of requests with rewards, and the verdicts of the answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.names import GivenName, Name, OutsideName
from bandit_serve.base.validation import FieldMistake

MAX_REWARDS = 10_000
MAX_TOKEN_CHARS = 4_096

RewardVerdict = Literal[
    "accepted", "duplicate", "corrected", "retracted", "conflict", "late", "unmatched", "unknown", "invalid"
]
ACCEPTED: tuple[RewardVerdict, ...] = ("accepted", "corrected", "retracted")
Token = Annotated[str, Meta(max_length=MAX_TOKEN_CHARS)]
# For the API description only: `event_ids.is_event_id` counts the bytes.
_EVENT_ID_SCHEMA = {"minLength": 1, "maxLength": 128, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
EventId = Annotated[
    str,
    Meta(
        description="1 to 128 bytes of UTF-8 without control characters; the event counts once",
        extra_json_schema=_EVENT_ID_SCHEMA,
    ),
]
Value = Annotated[float | bool | None, Meta(description="null takes back the event that `event_id` names")]


Time = Annotated[datetime, Meta(tz=True, description="RFC 3339; now unless it is given")]

BY_DECISION_OR_UNIT = "expected either decision_id, or experiment, unit and event_id"


class DecisionReward(Struct, frozen=True, forbid_unknown_fields=True):
    """Reward of a decision: a `Reward` that is read in the least time."""

    decision_id: Token
    value: Value
    metric: Name | None = None
    event_id: EventId | None = None


class DecisionRewards(Struct, frozen=True, forbid_unknown_fields=True):
    """A `RewardsRequest` of decisions alone."""

    decision_id: Token | UnsetType = UNSET
    value: Value | UnsetType = UNSET
    metric: Name | UnsetType | None = UNSET
    event_id: EventId | UnsetType | None = UNSET
    rewards: Annotated[list[DecisionReward], Meta(max_length=MAX_REWARDS)] | UnsetType = UNSET


class Reward(Struct, frozen=True, forbid_unknown_fields=True):
    """Reward of a decision, or of a unit in an experiment.

    `metric` is the objective unless it is given; true and false are 1 and 0 of a binary one. With an `event_id` it is
    one of several events of a decision, whose values add up. By unit, it joins the decision that was in force for the
    unit at the time `at`.
    """

    decision_id: Token | UnsetType = UNSET
    value: Value | UnsetType = UNSET
    metric: Name | None = None
    event_id: EventId | None = None
    experiment: GivenName | UnsetType = UNSET
    unit: OutsideName | UnsetType = UNSET
    at: Time | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.value is UNSET:
            raise FieldMistake("value", "Object missing required field `value`")
        by_unit = self.unit is not UNSET
        if by_unit is (self.experiment is UNSET) or by_unit is not (self.decision_id is UNSET):
            raise FieldMistake(self._at_odds(), BY_DECISION_OR_UNIT)
        if by_unit and self.event_id is None:
            raise FieldMistake("event_id", BY_DECISION_OR_UNIT)
        if not by_unit and self.at is not UNSET:
            raise FieldMistake("at", "expected none: only a reward by unit has a time")

    def _at_odds(self) -> str:
        """Field that is missing, or is there although the others name a decision or a unit."""
        if self.decision_id is not UNSET:
            return "experiment" if self.unit is UNSET else "decision_id"
        if self.unit is not UNSET:
            return "experiment"
        return "decision_id" if self.experiment is UNSET else "unit"


class RewardsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Either one reward, or `rewards`."""

    decision_id: Token | UnsetType = UNSET
    value: Value | UnsetType = UNSET
    metric: Name | UnsetType | None = UNSET
    event_id: EventId | UnsetType | None = UNSET
    experiment: GivenName | UnsetType = UNSET
    unit: OutsideName | UnsetType = UNSET
    at: Time | UnsetType = UNSET
    rewards: Annotated[list[Reward], Meta(max_length=MAX_REWARDS)] | UnsetType = UNSET


class ExposuresRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Decisions of a bulk evaluation that somebody saw."""

    decision_ids: Annotated[list[Token], Meta(max_length=MAX_REWARDS)]


class RewardsReport(Struct, frozen=True):
    """`accepted` counts the corrected and the retracted, too, `rejected` those in conflict, late, unmatched, unknown
    and invalid; `verdicts` are in the order of the request.
    """

    accepted: int
    duplicates: int
    rejected: int
    verdicts: list[RewardVerdict]


def rewards_report(verdicts: list[RewardVerdict]) -> RewardsReport:
    """Counts the verdicts."""
    accepted = sum(verdicts.count(verdict) for verdict in ACCEPTED)
    duplicates = verdicts.count("duplicate")
    return RewardsReport(accepted, duplicates, len(verdicts) - accepted - duplicates, verdicts)
