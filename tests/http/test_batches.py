"""Batches of decisions: other requests are served while one is worked on."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from bandit_serve.base.turns import TURN_S
from bandit_serve.server.handlers.decisions import DecisionHandlers
from bandit_serve.server.wire import JSON_FORM
from bandit_serve.settings import Settings

N = 20


@pytest.mark.parametrize("asked", ["decide", "predict"])
def test_a_batch_gives_way_after_each_entry_that_takes_long(asked: str) -> None:
    done: list[int] = []

    def answered(experiment: str, document: Any) -> Any:
        done.append(len(done))
        time.sleep(2 * TURN_S)
        return later() if asked == "predict" else {}

    async def later() -> dict[str, Any]:
        return {}

    decider = SimpleNamespace(
        status="running", arm_names=["a"], models=[None], payloads=[None], features=None, n_logged=0, slots=1
    )
    decisions = SimpleNamespace(
        find=lambda name: decider,
        decider=lambda name: decider,
        max_output_bytes=lambda name: 0,
        rows_at_once=lambda name: N,
        **{asked: answered},
    )
    counters = SimpleNamespace(add=lambda name, amount=1: None)
    service: Any = SimpleNamespace(
        settings=Settings(), decisions=decisions, counters=counters, admit_batch=lambda n_entries: None
    )
    handlers = DecisionHandlers(service)

    async def run() -> list[int]:
        body = json.dumps({"requests": [{"user_id": "u", "item_id": "i"} if asked == "predict" else {}] * N})
        batch = asyncio.create_task(getattr(handlers, f"{asked}_batch")("e", JSON_FORM, body.encode()))
        at_once = []
        while not batch.done():
            before = len(done)
            await asyncio.sleep(0)
            at_once.append(len(done) - before)
        assert len(json.loads((await batch).body)["responses"]) == N
        return at_once

    at_once = asyncio.run(run())
    assert sum(at_once) == N
    assert max(at_once) == 1
