"""Batches of decisions: other requests have their turn while one is worked on."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from bandit_serve.server.handlers.decisions import BREATH_S, ENTRIES_AT_ONCE, DecisionHandlers
from bandit_serve.settings import Settings

N = 10 * ENTRIES_AT_ONCE
SLOW = 20


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("asked", ["decide", "predict"])
def test_a_large_batch_gives_way(asked: str, slow: bool) -> None:
    """After some entries, and after each one that takes long."""
    done: list[int] = []

    def answered(experiment: str, wish: Any) -> Any:
        done.append(len(done))
        if slow and len(done) <= SLOW:
            time.sleep(2 * BREATH_S)
        return later() if asked == "predict" else {}

    async def later() -> dict[str, Any]:
        return {}

    decider = SimpleNamespace(status="running")
    decisions = SimpleNamespace(deciders={"e": decider}, decider=lambda name: decider, **{asked: answered})
    counters = SimpleNamespace(add=lambda name, amount=1: None)
    service: Any = SimpleNamespace(settings=Settings(), decisions=decisions, counters=counters)
    handlers = DecisionHandlers(service)

    async def run() -> list[int]:
        body = json.dumps({"requests": [{"user_id": "u", "item_id": "i"} if asked == "predict" else {}] * N})
        batch = asyncio.create_task(getattr(handlers, f"{asked}_batch")("e", {}, body.encode()))
        at_once = []
        while not batch.done():
            before = len(done)
            await asyncio.sleep(0)
            at_once.append(len(done) - before)
        assert len(json.loads((await batch).body)["responses"]) == N
        return at_once

    at_once = asyncio.run(run())
    assert sum(at_once) == N
    assert max(at_once) <= ENTRIES_AT_ONCE
    if slow:
        assert max(at_once[:SLOW]) == 1
