"""A store that is full, and one behind a thin link: it frees itself, and large snapshots disturb nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger import assert_states_equal_replay, make_experiment, wait_until_all_serve
from services import ThrowawayService
from stores import ThrowawayStore, wait_until
from test_outages import NOTICED_S, decided, reasons, rewarded

from bandit_serve.store.keys import Keys

KEYS = Keys()
WORKERS = 2
ROOM_BYTES = 2**20


@pytest.fixture
def store() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(tcp=True, appendfsync="no") as running:
        yield running


@pytest.mark.timeout(300)
def test_a_full_store_frees_itself(tmp_path: Path, store: ThrowawayStore) -> None:
    with ThrowawayService(tmp_path, store=store.url, workers=WORKERS) as service, store.client() as client:
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "large", unit="user")
        workers = service.worker_pids()
        client.config_set("maxmemory", client.info("memory")["used_memory"] + ROOM_BYTES)
        units = [f"u{i}" for i in range(5_000)]
        refused: list[str] = []

        def full() -> bool:
            answer = service.call("POST", "/v1/experiments/large/decide/batch", {"units": units})
            assert answer.status == 200
            token = decided(service, "large")
            answer = rewarded(service, token)
            if answer.status == 503:
                assert int(answer.headers["Retry-After"]) >= 1
                wait_until(lambda: "store_full" in reasons(service), NOTICED_S)
                refused.append(token)
            return bool(refused)

        wait_until(full, 60)
        # Nothing is snapshotted yet, and the next snapshot would be a minute away.
        del units[200:]  # what waits for the store is to fit into what it frees
        wait_until(lambda: full() and client.get(KEYS.trimmed("large")) is not None, 60)
        wait_until(lambda: not reasons(service), 60)
        wait_until(lambda: rewarded(service, refused[0]).body.get("verdicts") == ["accepted"], 60)
        assert service.worker_pids() == workers
        client.config_set("maxmemory", 0)
        assert_states_equal_replay(client, "large", WORKERS)
