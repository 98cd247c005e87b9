"""Measurements of logs, memory and learners: measured by one worker, read by all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from http_calls import decide_many, reward_many, running
from prometheus_client.parser import text_string_to_metric_families
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.folds.replica import Replica
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.log.offset import START
from bandit_serve.log.snapshot import Snapshot
from bandit_serve.store.store import Store
from bandit_serve.upkeep import measurements as module
from bandit_serve.upkeep.measurements import Measurer


def with_store(url: str, work: Any) -> Any:
    async def run() -> Any:
        store = Store(url)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def test_a_log_is_measured_with_what_no_snapshot_has(store: ThrowawayStore) -> None:
    async def work(client: Store) -> None:
        assert await client.measure_log("none", POLICY_FOLD) == (0, None, None)
        offsets = [await client.append("e", b"t", b"x" * 500) for _ in range(50)]
        nbytes, oldest, uncovered = await client.measure_log("e", POLICY_FOLD)
        assert 50 * 500 <= nbytes < 200 * 500
        assert (oldest, uncovered) == (offsets[0], offsets[0])
        for place in (9, 30):
            await client.write_snapshot("e", POLICY_FOLD, Snapshot(offsets[place], b"state"))
        assert (await client.measure_log("e", POLICY_FOLD))[1:] == (offsets[0], offsets[31])
        await client.write_snapshot("e", POLICY_FOLD, Snapshot(offsets[-1], b"state"))
        assert (await client.measure_log("e", POLICY_FOLD))[1:] == (offsets[0], None)

    with_store(store.url, work)


def test_only_the_leader_measures_and_all_read(
    store: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_MEASURED", 7)
    names = [f"e{i}" for i in range(20)]
    replica = Replica()
    replica.positions.update(dict.fromkeys(names, START))

    async def work(client: Store) -> None:
        for name in names:
            await client.append(name, b"t", b"x")
        leader = Measurer(client, replica, leads=lambda: True)
        other = Measurer(client, replica, leads=lambda: False)
        await other._read()
        assert other.found is None
        for n in (7, 14, 20):
            await leader.measure()
            assert leader.found is not None
            assert len(leader.found.logs) == n
            assert all(each.nbytes > 0 for each in leader.found.logs.values())
        await client.report_learner("films", 1_500)
        await leader.measure()
        await other._read()
        assert other.found == leader.found
        assert other.found is not None
        assert other.found.used_bytes > 0
        assert other.found.learners["films"].behind_ms == 1_500

    with_store(store.url, work)


def samples(service: ThrowawayService) -> dict[tuple[str, tuple[str, ...]], float]:
    text = service.call("GET", "/metrics").body.decode()
    return {
        (each.name, tuple(each.labels.values())): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def test_a_service_of_two_workers_has_them_whichever_answers(tmp_path: Path) -> None:
    with ThrowawayService(tmp_path, "--snapshot-every", "3s", workers=2) as service:
        name = running(service, attribution={"window": "1h", "missing": "zero"})
        tokens = decide_many(service, name, [f"u{i}" for i in range(100)])["decision_ids"]
        reward_many(service, tokens[:30], [1.0] * 30)

        def complete() -> bool:
            seen = [samples(service) for _ in range(6)]
            return all(
                each.get(("bandit_serve_log_bytes", (name,)), 0) > 0
                and each.get(("bandit_serve_pending", (name,))) == 70
                and each.get(("bandit_serve_snapshot_age_seconds", (name,)), 99) == 0
                for each in seen
            )

        wait_until(complete)
        now = samples(service)
        assert 0 < now["bandit_serve_log_age_seconds", (name,)] < 600
        assert now["bandit_serve_store_used_bytes", ()] > 100_000
        assert now["bandit_serve_store_max_bytes", ()] == 0
        assert now["bandit_serve_retention_seconds", ()] == 7 * 86_400
        assert now["bandit_serve_append_seconds_count", ()] >= 2
        assert 0 < now["bandit_serve_append_seconds_sum", ()] < 60
        assert 0 <= now["bandit_serve_tail_lag_seconds", ()] < 30
        assert now["process_open_fds", ()] > 20


def test_the_tail_lags_while_the_store_stands_still(tmp_path: Path, store: ThrowawayStore) -> None:
    with ThrowawayService(tmp_path, store=store.url) as service:
        wait_until(lambda: samples(service)["bandit_serve_tail_lag_seconds", ()] < 1)
        store.pause()
        try:
            wait_until(lambda: samples(service)["bandit_serve_tail_lag_seconds", ()] > 3)
            assert ("bandit_serve_store_used_bytes", ()) not in samples(service)
        finally:
            store.resume()
        wait_until(lambda: samples(service)["bandit_serve_tail_lag_seconds", ()] < 1)
