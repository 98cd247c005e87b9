"""Condition on which an experiment ends, or names a winner."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bandit_serve.base.durations import Duration

MAX_SAMPLES = 2**53
EXPECTED_SAMPLES = 5_000
# No arm has an asymptotic interval before 50; and sums of more than that are of no one experiment.
MIN_EXPECTED = 50
MAX_EXPECTED = 10**12
LOOKS = 5
MAX_LOOKS = 50


class Stopping(Struct, frozen=True, forbid_unknown_fields=True):
    """Condition on which a result names a winner: level `alpha`, and `min_samples` of the objective in each arm.

    `expected_samples` is the number of observations at which intervals and p-values are tightest. No change of a
    started experiment changes it: chosen by the outcomes, it would void them.

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

    def written(self) -> Stopping:
        """Stopping as it stands in a log. The end of a horizon was given, whatever it is."""
        tuned_for = UNSET if self.tuned_for == EXPECTED_SAMPLES and not self.horizon else self.tuned_for
        return msgspec.structs.replace(
            self,
            expected_samples=tuned_for,
            mode=self.mode if self.horizon else UNSET,
            looks=UNSET if self.n_looks == LOOKS or not self.horizon else self.n_looks,
        )

    def shown(self) -> Stopping:
        """Stopping as callers see it."""
        looks = self.n_looks if self.horizon else UNSET
        return msgspec.structs.replace(self, expected_samples=self.tuned_for, looks=looks)
