"""Load of rewards by event, of corrections and retractions, with a ledger of what has to come of them."""

from __future__ import annotations

import base64
import random
from typing import Any

from load import Connection, Load
from reward_ledger import RewardLedger

from bandit_serve.metrics import KINDS

METRICS = [
    {"name": "click", "kind": "binary", "role": "objective"},
    {"name": "visits", "kind": "count"},
    {"name": "spend", "kind": "continuous"},
]
CHANGING = ("accepted", "corrected", "retracted")

Decision = tuple[int, int]


def decision_of(token: str) -> Decision:
    """Incarnation and number that a token carries."""
    raw = base64.urlsafe_b64decode(token)
    return int.from_bytes(raw[10:18], "little"), int.from_bytes(raw[18:24], "little")


class EventLoad(Load):
    """Load whose visits are two decisions of a unit and some rewards of either, each sent until it is answered.

    No two visits share a unit, so the ledger says what comes of each, whichever way the others go. by_unit: whether
    events are known by unit.
    """

    def __init__(self, port: int, experiment: str, *, by_unit: bool, **options: Any) -> None:
        super().__init__(port, experiment, **options)
        self._fine = (200, 409)
        self._by_unit = by_unit
        self.ledger = RewardLedger([KINDS[metric["kind"]]() for metric in METRICS])
        self.arms: dict[Decision, str] = {}
        self.units: dict[Decision, str] = {}
        self.repeated = 0
        """Sends that a try before had counted, though it was not answered."""

    async def _visit(self, connection: Connection, unit: str, chance: random.Random) -> None:
        decide = f"/v1/experiments/{self._experiment}/decide"
        tokens = []
        for _ in range(2):
            decided = await self._insist(connection, decide, {"unit": unit}, self.tally.decisions)
            if decided is None:
                return
            token = decided.body["decision_id"]
            tokens.append(token)
            self.arms[decision_of(token)], self.units[decision_of(token)] = decided.body["arm"], unit
        for _ in range(chance.randint(1, 8)):
            await self._send(connection, chance.choice(tokens), unit, chance)

    async def _send(self, connection: Connection, token: str, unit: str, chance: random.Random) -> None:
        metric = chance.randrange(len(METRICS))
        event = chance.choice([None, "a", "b", "c"])
        value: float | None = [
            float(chance.randrange(2)),
            float(chance.randrange(5)),
            chance.uniform(-1, 1) * 10.0 ** chance.randint(-6, 6),
        ][metric]
        if event is not None and chance.random() < 0.3:
            value = None
        scope = unit if self._by_unit else None
        expected = self.ledger.send(decision_of(token), metric, value, event, unit=scope)
        body = {"decision_id": token, "value": value, "metric": METRICS[metric]["name"]}
        answered = await self._insist(
            connection, "/v1/rewards", body if event is None else {**body, "event_id": event}, None
        )
        if answered is None:
            return
        verdict = "conflict" if answered.status == 409 else answered.body["verdicts"][0]
        self.tally.verdicts[verdict] += 1
        self.tally.acknowledged[f"send {self.tally.verdicts.total()}"] = value or 0.0
        if verdict == "duplicate" and expected in CHANGING:
            self.repeated += 1
        elif verdict != expected:
            self.tally.failures.append(f"{body} with {event} was {verdict} and not {expected}")
