"""Values of decisions as a log has them in the end, by unit: for comparison with a ledger."""

from __future__ import annotations

import math

import numpy as np
import redis
from consistency_checks import log

from bandit_serve.log import events


def values_by_unit(client: redis.Redis, name: str) -> dict[tuple[int, int], float]:
    """Last value of each unit that has one, by the unit's hash and metric. No unit has values of two decisions."""
    values: dict[tuple[int, int], dict[tuple[int, int], float]] = {}
    for entry in log(client, name):
        if entry.kind == events.REVISED:
            for row in np.frombuffer(entry.data, events.REVISION):
                place = int(row["unit"]), int(row["metric"])
                decision = int(row["incarnation"]), int(row["counter"])
                values.setdefault(place, {})[decision] = float(row["value"])
    assert all(len(of_decisions) == 1 for of_decisions in values.values())
    lasts = {place: next(iter(of_decisions.values())) for place, of_decisions in values.items()}
    return {place: value for place, value in lasts.items() if not math.isnan(value)}
