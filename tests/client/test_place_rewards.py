"""Rewards of the places of a list."""

from __future__ import annotations

from typing import Any

import pytest
from bandit_serve_client import Decision, Placed, place_rewards

SLOTS = tuple(Placed(f"t{i}", name, 0.5, None, None) for i, name in enumerate("abcd"))
LIST = Decision("t0", "shelf", "a", 0.5, None, None, slots=SLOTS)


@pytest.mark.parametrize(
    ("clicked", "options", "values"),
    [
        (set(), {}, [0.0, 0.0, 0.0, 0.0]),
        ({0}, {}, [1.0]),
        ({2}, {}, [0.0, 0.0, 1.0]),
        ([1, 3], {}, [0.0, 1.0, 0.0, 1.0]),
        ({1}, {"seen": 3}, [0.0, 1.0, 0.0]),
        ({3}, {"seen": 4}, [0.0, 0.0, 0.0, 1.0]),
        (set(), {"seen": 0}, []),
        (set(), {"seen": 2}, [0.0, 0.0]),
    ],
)
def test_places_that_were_looked_at_get_rewards(
    clicked: Any, options: dict[str, int], values: list[float]
) -> None:
    rewards = place_rewards(LIST, clicked, metric="click", **options)
    assert [reward.value for reward in rewards] == values
    assert [reward.decision_id for reward in rewards] == [f"t{i}" for i in range(len(values))]
    assert {reward.metric for reward in rewards} <= {"click"}


@pytest.mark.parametrize(("clicked", "seen"), [({4}, None), ({-1}, None), ({2}, 2), (set(), 5), (set(), -1)])
def test_places_that_are_not_there_are_refused(clicked: set[int], seen: int | None) -> None:
    with pytest.raises(ValueError, match="places"):
        place_rewards(LIST, clicked, seen=seen)


def test_a_default_has_no_places() -> None:
    assert place_rewards(Decision(None, "shelf", "a", 1.0, None, None, "default"), {0}) == []


def test_a_decision_without_slots_has_no_places() -> None:
    with pytest.raises(ValueError, match="slots"):
        place_rewards(Decision("t", "e", "a", 1.0, None, None), {0})
