"""Guardrails while they are looked at all the time: harm where there is none, and harm where there is some."""

from __future__ import annotations

import math

import pytest
from scale import scaled
from simulated_guardrails import ever_harmed

RUNS = scaled(40, 300)
BOUND = 0.05 + 2 * math.sqrt(0.05 * 0.95 / RUNS)
CELLS = [("even", "latency"), ("ramp", "refunds"), ("thompson", "latency"), ("thompson", "refunds")]
FIXED_TOTAL = 581
"""Latencies of mean 1.36 and standard deviation 1.06, and 1.2 times that: for power .8, two-sided at level .05."""


@pytest.mark.parametrize(("shares", "law"), CELLS)
def test_equal_arms_are_rarely_ever_found_harmful(shares: str, law: str) -> None:
    found = ever_harmed(RUNS, shares, law, steps=scaled(20, 40))
    assert sum(each is not None for each in found) <= math.ceil(BOUND * len(found))


def test_an_arm_that_is_a_fifth_worse_is_found_within_four_fixed_totals() -> None:
    steps = 4 * FIXED_TOTAL // 200
    found = ever_harmed(RUNS, "even", "latency", worse=1.2, steps=steps)
    assert sum(each is not None for each in found) >= 0.9 * len(found)


def test_the_better_arm_on_the_objective_may_be_the_harmful_one() -> None:
    """Under a policy that gives it more and more of the traffic."""
    found = ever_harmed(RUNS // 4, "thompson", "latency", worse=1.3, sales=(0.1, 0.15), steps=30)
    assert sum(each is not None for each in found) >= 0.8 * len(found)
