"""Plans of experiments: how many observations and days a difference takes to be found, or what so many days can find.

n = theta^2 (v_c/s_c + v_t/s_t)/difference^2 for the fixed test of a pair of arms with shares s and variances v, theta
of `courses.py`: with two even arms of one variance 4 · 7.849 v/difference^2 at level .05 and power .8. Other tests take
multiples of it. With several arms each is compared with control at alpha over their number, Holm's first step. CUPED
by a covariate of correlation r multiplies all of them by 1 - r^2 (Deng et al. 2013).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.experiments.stopping import MAX_EXPECTED, MIN_EXPECTED
from bandit_serve.results.courses import Course, anytime_course, drift, horizon_course
from bandit_serve.results.estimates import MIN_OBSERVATIONS

MAX_N = 2.0**53
"""Observations beyond which no test is planned."""
HALVINGS = 200
ROUNDS = 8
"""Rounds in which the end of a test that is tuned already, and how well it is tuned, agree."""


class Law(NamedTuple):
    """Law of the metric in control: its mean, and its standard deviation; for values 0 and 1 that of any mean."""

    mean: float
    sd: float
    two_valued: bool = False

    def variance(self, difference: float = 0.0) -> float:
        """Variance in an arm whose mean is control's with `difference` added."""
        if not self.two_valued:
            return self.sd * self.sd
        mean = min(max(self.mean + difference, 0.0), 1.0)
        return mean * (1.0 - mean)


class PlannedEffect(Struct, frozen=True):
    """Difference of an arm to control, also relative to control; null where control is 0."""

    absolute: float
    relative: float | None


class PlannedTest(Struct, frozen=True, kw_only=True):
    """Test that finds the difference `effect` with the chance `power` by n observations of all arms.

    days: null without traffic. mean_n, mean_days: when it ends on average, if it may end before. expected_samples,
    looks: what to write into `stopping` for it. n_to_go, days_to_go: without what an experiment has analysed already.
    """

    n: int
    days: float | None
    effect: PlannedEffect
    power: float
    mean_n: int | UnsetType = UNSET
    mean_days: float | UnsetType | None = UNSET
    expected_samples: int | UnsetType = UNSET
    looks: int | UnsetType = UNSET
    n_to_go: int | UnsetType = UNSET
    days_to_go: float | UnsetType | None = UNSET


class CupedPlan(PlannedTest, frozen=True, kw_only=True):
    """Fixed test with CUPED, and the other two with it."""

    anytime: PlannedTest
    horizon: PlannedTest


class ExperimentPlan(Struct, frozen=True, kw_only=True):
    """Tests that would find the same difference, or what each finds in the same days."""

    baseline: dict[str, float]
    traffic: float | None
    alpha: float
    power: float
    arms: int
    experiment: str | UnsetType = UNSET
    metric: str | UnsetType = UNSET
    analysed: int | UnsetType = UNSET
    fixed: PlannedTest
    anytime: PlannedTest
    horizon: PlannedTest
    cuped: CupedPlan | UnsetType = UNSET


class Design(NamedTuple):
    """Frame of a plan: shares by arm, control's first; `traffic`, observations of all arms a day.

    tuned_for: `expected_samples` where they are fixed already. analysed: observations that there are.
    """

    law: Law
    shares: tuple[float, ...]
    alpha: float = 0.05
    power: float = 0.8
    looks: int = 5
    traffic: float | None = None
    tuned_for: int | None = None
    analysed: int | None = None

    @property
    def comparisons(self) -> int:
        return len(self.shares) - 1

    @property
    def level(self) -> float:
        """Level of one comparison."""
        return self.alpha / self.comparisons

    @property
    def pair(self) -> float:
        """Share of control and of the arm with the smallest share together."""
        return self.shares[0] + min(self.shares[1:])

    def needed(self, difference: float, part: float = 1.0) -> float:
        """Observations, of all arms, by which a fixed test finds the difference; `part` of the variance is left."""
        variance = self.law.variance() / self.shares[0] + self.law.variance(difference) / min(self.shares[1:])
        theta = drift(self.level, self.power)
        # Numbers so small that their square is none need no end of observations.
        return part * variance * (theta / difference) ** 2 if abs(difference) > 1e-150 else math.inf

    def found(self, n: float, part: float = 1.0) -> float | None:
        """Smallest difference above 0 that a fixed test of n observations finds; None if it finds none that can be."""
        most = 1.0 - self.law.mean if self.law.two_valued else self.law.sd * 1e9
        if not most > 0.0 or self.needed(most, part) > n:
            return None
        low, high = 0.0, most
        for _ in range(HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.needed(middle, part) > n else (low, middle)
        return high


def even_shares(arms: int) -> tuple[float, ...]:
    return (1.0 / arms,) * arms


TESTS = ("fixed", "anytime", "horizon")


def plan(
    design: Design,
    *,
    difference: float | None = None,
    days: float | None = None,
    correlation: float | None = None,
) -> ExperimentPlan:
    """Tests that find `difference`, in the metric's own unit and not 0, or else what each finds within `days`.

    Raises `InvalidInput` at `effect`, `days` or `traffic` where no number of observations is enough or none is given.
    """
    left = None if correlation is None else 1.0 - correlation * correlation
    fixed, anytime, horizon = (_planned(design, name, difference, days, 1.0) for name in TESTS)
    cuped: CupedPlan | UnsetType = UNSET
    if left is not None:
        own, further, last = (_planned(design, name, difference, days, left) for name in TESTS)
        cuped = CupedPlan(**msgspec.structs.asdict(own), anytime=further, horizon=last)
    law = design.law
    return ExperimentPlan(
        baseline={"rate": law.mean} if law.two_valued else {"mean": law.mean, "sd": law.sd},
        traffic=design.traffic,
        alpha=design.alpha,
        power=design.power,
        arms=len(design.shares),
        analysed=UNSET if design.analysed is None else design.analysed,
        fixed=fixed,
        anytime=anytime,
        horizon=horizon,
        cuped=cuped,
    )


def chances(design: Design, name: str, difference: float) -> list[tuple[float, float]]:
    """Points (n, chance that the difference has been found by n) of a test; of fixed tests each has its end at n."""
    needed = design.needed(difference)
    if name == "fixed":
        theta, z = drift(design.level, design.power), drift(design.level, 0.5)
        times = [i / 50.0 for i in range(1, 151)]
        return [(needed * t, NormalDist().cdf(theta * math.sqrt(t) - z)) for t in times]
    course = _course(design, name, needed)
    return list(zip((needed * course.t).tolist(), course.found.tolist(), strict=True))


def _planned(
    design: Design, name: str, difference: float | None, days: float | None, left: float
) -> PlannedTest:
    """One of the tests, where so much of the variance is left."""
    if difference is None:
        fixed_n, difference = _within(design, name, days, left)
    else:
        fixed_n = design.needed(difference, left)
    if not fixed_n <= MAX_N:
        raise _invalid(
            "effect", f"expected an effect that at most {MAX_N:.0f} observations find, not a smaller one"
        )
    end, mean = _times(design, name, fixed_n)
    # Before that an arm has no interval.
    least = 1 if name == "fixed" else math.ceil(MIN_OBSERVATIONS / min(design.shares))
    n = max(math.ceil(fixed_n * end * (1.0 - 1e-12)), least)
    mean_n = max(math.ceil(fixed_n * mean), min(least, n))
    tuned_for = {"anytime": design.tuned_for or round(fixed_n * design.pair), "horizon": n}.get(name)
    to_go = UNSET if design.analysed is None else max(n - design.analysed, 0)
    control = design.law.mean
    return PlannedTest(
        n=n,
        days=_days(design, n),
        effect=PlannedEffect(difference, difference / abs(control) if control else None),
        power=design.power,
        mean_n=UNSET if name == "fixed" else mean_n,
        mean_days=UNSET if name == "fixed" else _days(design, mean_n),
        expected_samples=UNSET if tuned_for is None else min(max(tuned_for, MIN_EXPECTED), MAX_EXPECTED),
        looks=design.looks if name == "horizon" else UNSET,
        n_to_go=to_go,
        days_to_go=UNSET if to_go is UNSET else _days(design, to_go),
    )


def _within(design: Design, name: str, days: float | None, left: float) -> tuple[float, float]:
    """Observations of the fixed test that finds what this test finds within the days, and that difference."""
    if days is None:
        raise ValueError("expected a difference or days")
    if design.traffic is None:
        raise _invalid("traffic", "expected observations a day, to know what so many days can find")
    n = fixed_n = days * design.traffic
    if n * min(design.shares) < MIN_OBSERVATIONS:
        raise _invalid("days", f"expected more: each arm needs {MIN_OBSERVATIONS} observations")
    for _ in range(ROUNDS):
        fixed_n = n / _times(design, name, fixed_n)[0]
    difference = design.found(fixed_n, left)
    if difference is None:
        raise _invalid("days", f"expected more: no difference is found by {n:.0f} observations")
    return fixed_n, difference


def _times(design: Design, name: str, fixed_n: float) -> tuple[float, float]:
    """End and mean of a test, in observations of the fixed test, which are `fixed_n`."""
    if name == "fixed":
        return 1.0, 1.0
    course = _course(design, name, fixed_n)
    return course.end(design.power), course.mean


def _course(design: Design, name: str, fixed_n: float) -> Course:
    if name == "horizon":
        return horizon_course(design.level, design.power, design.looks)
    tuned = 1.0 if design.tuned_for is None else design.tuned_for / max(fixed_n * design.pair, 1.0)
    return anytime_course(design.alpha, design.power, design.comparisons, tuned)


def _days(design: Design, n: float) -> float | None:
    return None if design.traffic is None else n / design.traffic


def _invalid(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])
