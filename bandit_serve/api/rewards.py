"""Bodies of requests with rewards, and the verdicts of the answer."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.names import Name

MAX_REWARDS = 10_000
MAX_TOKEN_CHARS = 4_096

RewardVerdict = Literal["accepted", "duplicate", "late", "unknown", "invalid"]
Token = Annotated[str, Meta(max_length=MAX_TOKEN_CHARS)]


class Reward(Struct, frozen=True, forbid_unknown_fields=True):
    """`metric` is the objective unless it is given; true and false are 1 and 0 of a binary one."""

    decision_id: Token
    value: float | bool
    metric: Name | None = None


class RewardsRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Either one reward, or `rewards`."""

    decision_id: Token | UnsetType = UNSET
    value: float | bool | UnsetType = UNSET
    metric: Name | UnsetType | None = UNSET
    rewards: Annotated[list[Reward], Meta(max_length=MAX_REWARDS)] | UnsetType = UNSET


class ExposuresRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Decisions of a bulk evaluation that somebody saw."""

    decision_ids: Annotated[list[Token], Meta(max_length=MAX_REWARDS)]


class RewardsReport(Struct, frozen=True):
    """`rejected` counts the late, the unknown and the invalid; `verdicts` are in the order of the request."""

    accepted: int
    duplicates: int
    rejected: int
    verdicts: list[RewardVerdict]


def rewards_report(verdicts: list[RewardVerdict]) -> RewardsReport:
    """Counts the verdicts."""
    accepted, duplicates = verdicts.count("accepted"), verdicts.count("duplicate")
    return RewardsReport(accepted, duplicates, len(verdicts) - accepted - duplicates, verdicts)
