"""Load of rewards by unit, of corrections and retractions, with a ledger of each unit's events."""

from __future__ import annotations

import math
import random
from typing import Any

from load import Connection, Load

METRICS = [{"name": "spend", "kind": "continuous"}]
TAKEN = ("accepted", "corrected", "retracted", "duplicate")


class UnitLoad(Load):
    """Load whose visits are a unit's decision and some rewards by unit, each sent until it is answered.

    A reward that is unmatched is sent again after another decision: its exposure was lost with a worker.
    """

    def __init__(self, port: int, experiment: str, **options: Any) -> None:
        super().__init__(port, experiment, **options)
        self._fine = (200,)
        self.events: dict[str, dict[str, float | None]] = {}
        """Last value of each event, by unit and event; None was taken back."""

    @property
    def sums(self) -> dict[str, float]:
        """Exact sums of the events of each unit that has some."""
        present = {
            unit: [value for value in events.values() if value is not None]
            for unit, events in self.events.items()
        }
        return {unit: math.fsum(values) for unit, values in present.items() if values}

    async def _visit(self, connection: Connection, unit: str, chance: random.Random) -> None:
        events: dict[str, float | None] = {}
        decide = f"/v1/experiments/{self._experiment}/decide"
        if await self._insist(connection, decide, {"unit": unit}, self.tally.decisions) is None:
            return
        for _ in range(chance.randint(1, 6)):
            event = chance.choice("abc")
            value: float | None = chance.uniform(-1, 1) * 10.0 ** chance.randint(-6, 6)
            if event in events and chance.random() < 0.3:
                value = None
            body = {"experiment": self._experiment, "unit": unit, "value": value, "event_id": event}
            while True:
                answered = await self._insist(connection, "/v1/rewards", body, None)
                if answered is None:
                    return
                (verdict,) = answered.body["verdicts"]
                self.tally.verdicts[verdict] += 1
                if verdict != "unmatched":
                    break
                await self._insist(connection, decide, {"unit": unit}, self.tally.decisions)
            if verdict not in TAKEN:
                self.tally.failures.append(f"{body} was {verdict}")
                return
            events[event] = value
            self.tally.acknowledged[f"send {len(self.tally.acknowledged)}"] = value or 0.0
        self.events[unit] = events
