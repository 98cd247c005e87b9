"""Rewards, their verdicts, and the report on a batch."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

MAX_BATCH = 10_000
OBJECT_BYTES = 300
"""Memory of a reward in the queue without the characters of its texts: the object, a float, and the heads of texts."""

Verdict = Literal[
    "accepted",
    "duplicate",
    "corrected",
    "retracted",
    "conflict",
    "late",
    "unmatched",
    "unknown",
    "invalid",
]
COUNTED: frozenset[str] = frozenset({"accepted", "duplicate", "corrected", "retracted"})
"""Verdicts after which the service's sums are those that the reward asks for."""


@dataclass(frozen=True, slots=True)
class Reward:
    """Reward of a decision, on the objective unless `metric` is given.

    With an `event_id` it counts once among the events of that decision, another value corrects it, and None takes it
    back. Raises ValueError for a value that is no finite number.

    A decision that was not drawn, such as one for a request outside of the audience, has no id: its reward is
    `unmatched`, and is not sent.
    """

    decision_id: str | None
    value: float | None
    metric: str | None = None
    event_id: str | None = None

    def __post_init__(self) -> None:
        _check(self.value, self.event_id)

    @property
    def settled(self) -> Verdict | None:
        """Verdict that is known before the reward is sent; None for one that the service decides."""
        return "unmatched" if self.decision_id is None else None

    @property
    def n_bytes(self) -> int:
        """Memory in bytes, about, that the reward takes while it waits."""
        return _n_bytes(self.decision_id, self.metric, self.event_id)

    def body(self) -> dict[str, Any]:
        """Reward as the service takes it."""
        return _given(self)


def _new_event_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitReward:
    """Reward of a unit, in an experiment with `unit: user`: it joins the exposure that was in force at `at`.

    at : time of the event, with its zone, or RFC 3339; the service's present time unless it is given.
    event_id : names the event, which counts once; one that is not given is made up, and stays the same in every retry.
    """

    experiment: str
    unit: str
    value: float | None
    metric: str | None = None
    event_id: str = field(default_factory=_new_event_id)
    at: datetime | str | None = None

    def __post_init__(self) -> None:
        _check(self.value, self.event_id)
        if isinstance(self.at, datetime) and self.at.tzinfo is None:
            raise ValueError("at: expected a time with its zone")

    @classmethod
    def of(
        cls,
        experiment: str,
        unit: str,
        value: float | None,
        metric: str | None,
        event_id: str | None,
        at: datetime | str | None,
    ) -> UnitReward:
        """Makes a reward; an `event_id` of None is made up."""
        return cls(
            experiment=experiment,
            unit=unit,
            value=value,
            metric=metric,
            event_id=_new_event_id() if event_id is None else event_id,
            at=at,
        )

    @property
    def settled(self) -> Verdict | None:
        """None: the service decides."""
        return None

    @property
    def n_bytes(self) -> int:
        """Memory in bytes, about, that the reward takes while it waits."""
        at = self.at if isinstance(self.at, str) else None
        return _n_bytes(self.experiment, self.unit, self.metric, self.event_id, at)

    def body(self) -> dict[str, Any]:
        """Reward as the service takes it."""
        body = _given(self)
        if isinstance(self.at, datetime):
            body["at"] = self.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return body


AnyReward = Reward | UnitReward


@dataclass(frozen=True, slots=True)
class RewardsReport:
    """Verdicts in the order of the request, and their counts; `rejected` counts those that changed nothing."""

    accepted: int
    duplicates: int
    rejected: int
    verdicts: tuple[Verdict, ...]


NOTHING_SENT = RewardsReport(0, 0, 0, ())


def to_send(rewards: Sequence[AnyReward]) -> list[AnyReward]:
    """Rewards that the service decides."""
    return [reward for reward in rewards if reward.settled is None]


def report_on(rewards: Sequence[AnyReward], sent: RewardsReport) -> RewardsReport:
    """Report on all of `rewards`, of which `sent` is the report on those that were sent."""
    verdicts = iter(sent.verdicts)
    every = tuple(next(verdicts) if (settled := reward.settled) is None else settled for reward in rewards)
    n_settled = len(rewards) - len(sent.verdicts)
    return RewardsReport(sent.accepted, sent.duplicates, sent.rejected + n_settled, every)


def _check(value: float | None, event_id: str | None) -> None:
    if value is None:
        if event_id is None:
            raise ValueError("value: expected a number; only an event can be taken back")
    elif not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise ValueError(f"value: expected a finite number, not {value!r}")


def _n_bytes(*texts: str | None) -> int:
    """Bytes of an object, and of its texts: a character takes 4 at most."""
    return OBJECT_BYTES + sum(len(text) if text.isascii() else 4 * len(text) for text in texts if text)


def _given(reward: AnyReward) -> dict[str, Any]:
    """Fields that are given. `value` is one of them when it is None, which takes an event back."""
    names = type(reward).__dataclass_fields__
    every = {name: getattr(reward, name) for name in names}
    return {name: value for name, value in every.items() if value is not None or name == "value"}
