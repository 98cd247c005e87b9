"""Changes that were answered hold for the next request, in any worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import msgspec
import pytest
from services import ThrowawayService
from stores import ThrowawayStore

from bandit_serve.log.events import TICK
from bandit_serve.replication.acknowledgements import PATIENCE_S, acknowledge, wait_for_acknowledgements
from bandit_serve.replication.census import WorkerCard
from bandit_serve.store.store import Store

ROUNDS = 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), workers=2) as running:
        yield running


def test_every_worker_knows_a_change_when_it_is_answered(pair: ThrowawayService) -> None:
    """A new connection for each request, so both workers take their share of them."""
    for number in range(ROUNDS):
        name = f"heard-{number}"
        document = {
            "id": name,
            "arms": [{"name": "a"}, {"name": "b"}],
            "metrics": [{"name": "click", "kind": "binary"}],
            "attribution": {"missing": "ignore"},
            "policy": {"kind": "fixed_split", "shares": {"b": 1.0}},
        }
        assert pair.call("POST", "/v1/experiments", document).status == 201
        assert pair.call("POST", f"/v1/experiments/{name}/start").status == 200
        assert {pair.call("POST", f"/v1/experiments/{name}/decide", {}).body["arm"] for _ in range(4)} == {
            "b"
        }
        pair.call("PUT", f"/v1/experiments/{name}/policy", {"kind": "fixed_split", "shares": {"a": 1.0}})
        assert {pair.call("POST", f"/v1/experiments/{name}/decide", {}).body["arm"] for _ in range(4)} == {
            "a"
        }
        pair.call("POST", f"/v1/experiments/{name}/pause")
        paused = [pair.call("POST", f"/v1/experiments/{name}/decide", {}).body for _ in range(4)]
        assert all(decided["decision_id"] is None for decided in paused)
        pair.call("POST", f"/v1/experiments/{name}/stop", {"winner": "b"})
        assert {pair.call("POST", f"/v1/experiments/{name}/decide", {}).body["arm"] for _ in range(4)} == {
            "b"
        }


def test_a_worker_that_does_not_answer_holds_a_change_up_only_for_a_moment() -> None:
    async def change(url: str) -> float:
        store = Store(url)
        try:
            silent = WorkerCard(incarnation=1, pid=1, host="gone", started_ms=1)
            await store.announce(msgspec.msgpack.encode(silent), 60_000)
            offset = await store.append("e", TICK, b"")
            started_s = time.monotonic()
            await wait_for_acknowledgements(store, "e", offset)
            waited_s = time.monotonic() - started_s
            await acknowledge(store, "e", offset, 1)
            started_s = time.monotonic()
            await wait_for_acknowledgements(store, "e", offset)
            assert time.monotonic() - started_s < waited_s
            return waited_s
        finally:
            await store.close()

    with ThrowawayStore() as running:
        assert asyncio.run(change(running.url)) >= PATIENCE_S
