"""Condition on which an experiment starts and ends by itself, or names a winner."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.clock import unix_ms
from bandit_serve.base.durations import Duration, parse_duration_ms

MAX_SAMPLES = 2**53
EXPECTED_SAMPLES = 5_000
# No arm has an asymptotic interval before 50; and sums of more than that are of no one experiment.
MIN_EXPECTED = 50
MAX_EXPECTED = 10**12
MAX_TIME_YEAR = 9_000
MAX_DURATION_MS = 10 * 366 * 86_400_000
MAX_LIMIT = 1e100
LOOKS = 5
MAX_LOOKS = 50

Time = Annotated[
    datetime,
    Meta(
        tz=True,
        description="RFC 3339, with a zone",
        extra_json_schema={
            "pattern": r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})$"
        },
    ),
]
Limit = Annotated[float, Meta(gt=0.0, le=MAX_LIMIT)]


class StoppingRule(Struct, frozen=True, forbid_unknown_fields=True):
    """Rule that ends an experiment: one of the fields.

    `precision`: every arm's difference to control is known to within it, in units of the objective; it is half the
    width of its interval. `futility`: no arm can gain it on control any more, as the better end of the interval of
    every difference is below it. `best_arm`: the arm that is ahead is the best of all with a chance of at least 1 minus
    it.
    """

    precision: Limit | UnsetType = UNSET
    futility: Limit | UnsetType = UNSET
    best_arm: Annotated[float, Meta(gt=0.0, lt=1.0)] | UnsetType = UNSET

    @property
    def given(self) -> list[str]:
        return [name for name in self.__struct_fields__ if getattr(self, name) is not UNSET]


class Stopping(Struct, frozen=True, forbid_unknown_fields=True):
    """Condition on which a result names a winner: level `alpha`, and `min_samples` of the objective in each arm.

    `expected_samples` is the number of observations at which intervals and p-values are tightest. No change of a
    started experiment changes it: chosen by the outcomes, it would void them.

    The service starts a draft at `start_at`. It ends the experiment at `end_at`, when `duration` has passed since the
    start, or when `rule` says so, whichever comes first. `promote_winner` says whether it then promotes the winner's
    version, too.

    In the `mode` `horizon` an experiment commits to its end, at `expected_samples` values of the objective in all arms
    together: they are compared at so many `looks` on the way there, and not in between. Less is needed for the same
    power than when anybody may look at any time, as in `anytime`.

    Defaults are not written: so builds without a field can read logs of experiments that do not use it.
    """

    duration: Duration | None = None
    min_samples: Annotated[int, Meta(ge=0, le=MAX_SAMPLES)] = 0
    alpha: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.05
    promote_winner: bool = False
    expected_samples: (
        Annotated[
            int, Meta(ge=MIN_EXPECTED, le=MAX_EXPECTED, extra_json_schema={"default": EXPECTED_SAMPLES})
        ]
        | UnsetType
    ) = UNSET
    start_at: Time | UnsetType = UNSET
    end_at: Time | UnsetType = UNSET
    rule: Literal["winner"] | StoppingRule | UnsetType = UNSET
    mode: (
        Annotated[Literal["anytime", "horizon"], Meta(extra_json_schema={"default": "anytime"})] | UnsetType
    ) = UNSET
    looks: Annotated[int, Meta(ge=1, le=MAX_LOOKS, extra_json_schema={"default": LOOKS})] | UnsetType = UNSET

    @property
    def horizon(self) -> bool:
        """Whether it commits to its end."""
        return self.mode == "horizon"

    @property
    def n_looks(self) -> int:
        """`looks`, or the default where none are written."""
        return LOOKS if self.looks is UNSET else self.looks

    @property
    def tuned_for(self) -> int:
        """`expected_samples`, or the default where none is written."""
        return EXPECTED_SAMPLES if self.expected_samples is UNSET else self.expected_samples

    @property
    def starts_ms(self) -> int | None:
        """Unix time at which a draft starts by itself; None if it does not."""
        return None if self.start_at is UNSET else unix_ms(self.start_at)

    def ends_ms(self, started_ms: int | None) -> int | None:
        """Unix time at which the experiment ends by itself, given when it started; None if time does not end it."""
        ends = [] if self.end_at is UNSET else [unix_ms(self.end_at)]
        if self.duration is not None and started_ms is not None:
            ends.append(started_ms + parse_duration_ms(self.duration))
        return min(ends, default=None)

    def written(self) -> Stopping:
        """Stopping as it stands in a log. The end of a horizon was given, whatever it is."""
        tuned_for = UNSET if self.tuned_for == EXPECTED_SAMPLES and not self.horizon else self.tuned_for
        return msgspec.structs.replace(
            self,
            expected_samples=tuned_for,
            start_at=_in_utc(self.start_at),
            end_at=_in_utc(self.end_at),
            mode=self.mode if self.horizon else UNSET,
            looks=UNSET if self.n_looks == LOOKS or not self.horizon else self.n_looks,
        )

    def shown(self) -> Stopping:
        """Stopping as callers see it."""
        looks = self.n_looks if self.horizon else UNSET
        return msgspec.structs.replace(self, expected_samples=self.tuned_for, looks=looks)


def _in_utc(time: datetime | UnsetType) -> datetime | UnsetType:
    return UNSET if time is UNSET else time.astimezone(UTC)
