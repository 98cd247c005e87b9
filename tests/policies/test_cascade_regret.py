"""Lists in the cascade model: regret beside the ways of the literature, played in the same run."""

from __future__ import annotations

import pytest
import simulated_slots as simulated
from scale import scaled

pytestmark = pytest.mark.slow

RUNS, HORIZON = scaled(4, 40), scaled(1_000, 5_000)


@pytest.mark.parametrize("name", simulated.WORLDS)
def test_lists_lose_no_more_than_those_of_the_literature(name: str) -> None:
    found = simulated.regrets(simulated.WORLDS[name], HORIZON, RUNS)
    of_bounds, error = simulated.ratio(found[simulated.Served], found[simulated.UpperBounds])
    assert of_bounds < 1.1 + 3.0 * error
    # A sample of its own for each place explores a little more than one sample for all places.
    of_sample, error = simulated.ratio(found[simulated.Served], found[simulated.OneSample])
    assert of_sample < 1.2 + 3.0 * error


def test_lists_that_learn_nothing_would_not_pass() -> None:
    class Deaf(simulated.Served):
        def learn(self, looked: list[tuple[int, bool]]) -> None:
            pass

    world = simulated.WORLDS["a slope"]
    deaf = simulated.regret(Deaf, world, HORIZON, 0)
    assert deaf > 2.0 * simulated.regret(simulated.UpperBounds, world, HORIZON, 0)
