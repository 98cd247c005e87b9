"""Rewards of the places of a list, in an experiment with slots."""

from __future__ import annotations

from collections.abc import Collection

from bandit_serve_client.decisions import Decision
from bandit_serve_client.rewards import Reward


def place_rewards(
    decision: Decision, clicked: Collection[int], *, seen: int | None = None, metric: str | None = None
) -> list[Reward]:
    """Rewards of the places that were looked at: 1 for those in `clicked`, 0 for the others.

    Whoever goes through a list from its top and stops at a click has looked at no place below the last one, and at all
    places where nothing was clicked: those get rewards (cascade). `seen` says instead how many places from the top were
    looked at, as where the page measures it. Places have numbers from 0.

    A default, while the service is away, has none. Raises ValueError for another decision without slots, and for a
    place that the list does not have.
    """
    if decision.slots is None and decision.decision_id is None:
        return []
    if decision.slots is None:
        raise ValueError("expected a decision with slots")
    n = len(decision.slots)
    if not all(0 <= place < n for place in clicked):
        raise ValueError(f"clicked: expected places from 0 to {n - 1}")
    if seen is None:
        seen = max(clicked, default=n - 1) + 1
    if not max(clicked, default=-1) < seen <= n:
        raise ValueError(f"seen: expected a number of places up to {n} that has those which were clicked")
    return [
        Reward(place.decision_id, float(i in clicked), metric)
        for i, place in enumerate(decision.slots[:seen])
    ]
