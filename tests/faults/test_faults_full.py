"""Full store, and a store behind a slow link: it frees memory, and large snapshots delay nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from consistency_checks import assert_states_equal_replay, make_experiment, wait_until_all_serve
from load import Load
from outages import NOTICED_S, decided, kill_workers, reasons, rewarded
from scale import scaled
from services import ThrowawayService
from stores import ThrowawayStore, wait_until
from switching_proxy import SwitchingProxy

from bandit_serve.store.keys import Keys

KEYS = Keys()
WORKERS = 2
ROOM_BYTES = 2**23
"""Several times what the connections of workers take that try to write what waits."""


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

        def trimmed() -> bool:
            return client.get(KEYS.trimmed("large")) is not None

        def full() -> bool:
            answer = service.call("POST", "/v1/experiments/large/decide/batch", {"units": units})
            assert answer.status == 200
            token = decided(service, "large")
            answer = rewarded(service, token)
            if answer.status == 503:
                assert int(answer.headers["Retry-After"]) >= 1
                wait_until(lambda: "store_full" in reasons(service) or trimmed(), NOTICED_S)
                refused.append(token)
            return bool(refused)

        def goes_on() -> bool:
            # Few, as what waits for the store is to fit into what it frees.
            more = {"units": units[:200]}
            assert service.call("POST", "/v1/experiments/large/decide/batch", more).status == 200
            return trimmed()

        wait_until(full, 60)
        # Nothing is snapshotted yet, and the next snapshot would be a minute away.
        wait_until(goes_on, 60)
        wait_until(lambda: not reasons(service), 60)
        wait_until(lambda: rewarded(service, refused[0]).body.get("verdicts") == ["accepted"], 60)
        assert service.worker_pids() == workers
        client.config_set("maxmemory", 0)
        assert_states_equal_replay(client, "large", WORKERS)


BYTES_PER_S = 30e6
WRITTEN_S = 120
LARGE = {"arms": 140, "fields": 120}
"""Of about the largest state that a policy may have: 63 MiB."""


@pytest.mark.timeout(600)
def test_large_snapshots_over_a_thin_link_disturb_nobody(tmp_path: Path) -> None:
    arms, fields = scaled(30, LARGE["arms"]), scaled(60, LARGE["fields"])
    with (
        ThrowawayStore(tcp=True) as store,
        SwitchingProxy(store.port, bytes_per_s=BYTES_PER_S) as link,
        ThrowawayService(tmp_path, "--snapshot-every", "2s", store=link.url, workers=WORKERS) as service,
        store.client() as client,
    ):
        wait_until_all_serve(service, WORKERS)
        made = service.call(
            "POST",
            "/v1/experiments",
            {
                "id": "heavy",
                "arms": [{"name": f"a{i}"} for i in range(arms)],
                "context": [{"name": f"x{i}", "kind": "numeric"} for i in range(fields)],
                "policy": {"kind": "lin_ucb"},
                "metrics": [{"name": "click", "kind": "binary"}],
                "attribution": {"window": "1h", "missing": "ignore"},
            },
        )
        assert made.status == 201, made.body
        assert service.call("POST", "/v1/experiments/heavy/start").status == 200
        make_experiment(service, "light")
        wait_until(lambda: client.hlen(KEYS.snapshots("heavy", "policy")) > 0, WRITTEN_S)
        with Load(service.port, "light") as load:
            for _ in range(scaled(1, 4)):
                # Moved, so that it is written again.
                context = {f"x{i}": 0.5 for i in range(fields)}
                decided = service.call(
                    "POST", "/v1/experiments/heavy/decide", {"unit": "u", "context": context}
                )
                assert decided.status == 200
                before = set(client.hkeys(KEYS.snapshots("heavy", "policy")))
                light = set(client.hkeys(KEYS.snapshots("light", "policy")))
                wait_until(
                    lambda before=before: set(client.hkeys(KEYS.snapshots("heavy", "policy"))) != before,
                    WRITTEN_S,
                )
                wait_until(
                    lambda light=light: set(client.hkeys(KEYS.snapshots("light", "policy"))) != light,
                    WRITTEN_S,
                )
            load.wait_for_visits(50)
        pieces = [key for key in client.scan_iter("*:snapshots:policy:*") if b"heavy" in key]
        assert pieces
        assert all(client.ttl(key) == -1 for key in pieces)
        size = sum(client.memory_usage(key, samples=0) for key in pieces) / len(pieces)
        longest_s = max(seconds for _, seconds, _ in load.tally.rewards)
        print(
            f"{size / 2**20:.1f} MiB a snapshot; longest wait of a reward {longest_s:.2f} s, {load.tally.statuses}"
        )
        # Packing and checking the largest state holds the interpreter for parts of a second, and a reward waits one.
        assert load.tally.statuses[503] <= scaled(0, load.tally.statuses[200] // 1_000)
        assert not load.tally.failures
        assert not reasons(service)
        # A worker that starts reads it over the same link.
        kill_workers(service)
        wait_until_all_serve(service, WORKERS)
        assert_states_equal_replay(client, "light", WORKERS)
        assert "heavy" in service.call("GET", "/v1/stats").body["experiments"]
