"""Workers that start during an outage, and stores that have lost entries before or after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from consistency_checks import assert_states_equal_replay, counted_in, make_experiment, wait_until_all_serve
from load import Load
from outages import decided, kill_workers, reasons, rewarded
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

WORKERS = 2


@pytest.fixture
def store() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(tcp=True) as running:
        yield running


def wait_for_files(data: Path, *names: str) -> None:
    directory = data / "snapshots" / "bandit_serve"
    wait_until(lambda: all((directory / f"{name}.snapshot").exists() for name in names))


def wait_until_started_without_store(service: ThrowawayService) -> None:
    def all_started() -> bool:
        answers = [service.call("GET", "/health/ready") for _ in range(8)]
        return all(
            each.status == 200
            and "started_without_store" in {reason["what"] for reason in each.body.get("reasons", [])}
            for each in answers
        )

    wait_until(all_started)


@pytest.mark.timeout(300)
def test_workers_that_start_without_the_store_decide_and_join_it(
    tmp_path: Path, store: ThrowawayStore
) -> None:
    with ThrowawayService(tmp_path, store=store.url, workers=WORKERS) as service:
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "e")
        early = [decided(service, "e") for _ in range(10)]
        assert all(rewarded(service, token).status == 200 for token in early)
        wait_for_files(tmp_path, "e", ".token-keys", ".common")
        store.kill()
        kill_workers(service)
        wait_until_started_without_store(service)
        assert {"store_away", "started_without_store"} <= set(reasons(service))
        tokens = [decided(service, "e") for _ in range(50)]
        refused = rewarded(service, tokens[0])
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        started = service.worker_pids()
        # The whole service, too.
        assert service.stop() == 0
        service.start()
        wait_until_started_without_store(service)
        assert decided(service, "e")
        started = service.worker_pids()
        store.start()
        wait_until(lambda: not reasons(service))
        wait_until_all_serve(service, WORKERS)
        assert service.worker_pids() == started
        # Keys were in the files, so what was decided without the store counts.
        assert all(rewarded(service, token).body["verdicts"] == ["accepted"] for token in tokens)
        wait_until(lambda: counted_in(service, "e") == 60)
        with store.client() as client:
            assert_states_equal_replay(client, "e", WORKERS)


@pytest.mark.timeout(300)
def test_a_worker_that_starts_on_a_demoted_store_waits_for_it(tmp_path: Path, store: ThrowawayStore) -> None:
    with ThrowawayService(tmp_path, store=store.url) as service, store.client() as client:
        wait_until_all_serve(service, 1)
        make_experiment(service, "e")
        wait_for_files(tmp_path, "e", ".token-keys", ".common")
        client.replicaof("127.0.0.1", "1")
        kill_workers(service)
        wait_until_started_without_store(service)
        assert decided(service, "e")
        started = service.worker_pids()
        client.replicaof("no", "one")
        wait_until(lambda: not reasons(service))
        assert service.worker_pids() == started
        assert rewarded(service, decided(service, "e")).status == 200


@pytest.mark.timeout(300)
@pytest.mark.parametrize("loss", ["emptied", "of another"])
def test_a_store_that_lost_all_is_noticed_while_it_answers(
    tmp_path: Path, store: ThrowawayStore, loss: str
) -> None:
    with ThrowawayService(tmp_path, store=store.url, workers=WORKERS) as service, store.client() as client:
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "e")
        assert rewarded(service, decided(service, "e")).status == 200
        wait_for_files(tmp_path, "e", ".token-keys", ".common")
        workers = set(service.worker_pids())
        client.flushall()
        if loss == "of another":
            client.set("bandit_serve:{.common}:id", "another")
        wait_until(lambda: not workers & set(service.worker_pids()))
        wait_until_all_serve(service, WORKERS)
        # The store wins over the files: there is nothing, and it is said.
        assert service.call("GET", "/v1/experiments").body["experiments"] == []
        assert any("has lost" in line or "of another" in line for line in service.output)
        make_experiment(service, "e")
        assert rewarded(service, decided(service, "e")).status == 200
        wait_until(lambda: counted_in(service, "e") == 1)


@pytest.mark.timeout(300)
def test_a_restored_older_file_is_noticed_while_the_store_answers(tmp_path: Path) -> None:
    """As a restore on a live connection: DEBUG RELOAD reads a file that is older than what workers know."""
    options = {"enable-debug-command": "yes"}
    with (
        ThrowawayStore(tcp=True, appendonly=False, options=options) as store,
        ThrowawayService(tmp_path, store=store.url, workers=WORKERS) as service,
        store.client() as client,
    ):
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "e")
        with Load(service.port, "e") as load:
            load.wait_for_visits(20)
        wait_until(lambda: counted_in(service, "e") == len(load.tally.acknowledged))
        client.save()
        saved = len(load.tally.acknowledged)
        shutil.copy(store.directory / "dump.rdb", tmp_path / "older.rdb")
        assert rewarded(service, decided(service, "e")).status == 200
        wait_until(lambda: counted_in(service, "e") == saved + 1)
        # One that has not read it yet would have lost nothing.
        assert_states_equal_replay(client, "e", WORKERS)
        workers = set(service.worker_pids())
        shutil.copy(tmp_path / "older.rdb", store.directory / "dump.rdb")
        client.execute_command("DEBUG", "RELOAD", "NOSAVE")
        # Written at once, so that the log has something newer than what it lost.
        token = decided(service, "e")
        assert rewarded(service, token).status in (200, 503)
        wait_until(lambda: not workers & set(service.worker_pids()))
        wait_until_all_serve(service, WORKERS)
        assert rewarded(service, token).status == 200
        wait_until(lambda: counted_in(service, "e") == saved + 1)
        with store.client() as looking:
            assert_states_equal_replay(looking, "e", WORKERS)
