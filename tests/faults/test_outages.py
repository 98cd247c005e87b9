"""Outages of the store, each by its name: health reports them within seconds, decisions go on, rewards wait."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from consistency_checks import (
    assert_counted,
    assert_states_equal_replay,
    make_experiment,
    wait_until_all_serve,
)
from load import Load
from outages import NOTICED_S, decided, reasons, rewarded
from scale import scaled
from services import ThrowawayService
from stores import ThrowawayStore, wait_until
from switching_proxy import SwitchingProxy

WORKERS = 2

Break = Callable[[ThrowawayStore], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def configured(store: ThrowawayStore, option: str, value: str, back: str) -> Iterator[None]:
    with store.client() as client:
        client.config_set(option, value)
        yield
        client.config_set(option, back)


@contextlib.contextmanager
def stopped(store: ThrowawayStore) -> Iterator[None]:
    store.pause()
    yield
    store.resume()


@contextlib.contextmanager
def gone(store: ThrowawayStore) -> Iterator[None]:
    store.kill()
    yield
    store.start()


@contextlib.contextmanager
def demoted(store: ThrowawayStore) -> Iterator[None]:
    with store.client() as client:
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("no", "one")


@contextlib.contextmanager
def cut_off(store: ThrowawayStore) -> Iterator[None]:
    """A replica without its primary that answers MASTERDOWN to everything."""
    with store.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("no", "one")
        client.config_set("replica-serve-stale-data", "yes")


STATES: dict[str, tuple[str, Break]] = {
    "away": ("store_away", gone),
    "stopped": ("store_slow", stopped),
    "read-only": ("store_read_only", demoted),
    "full": ("store_full", lambda store: configured(store, "maxmemory", "1", "0")),
    "loading": ("store_loading", cut_off),
    "without replicas": (
        "store_lacks_replicas",
        lambda store: configured(store, "min-replicas-to-write", "1", "0"),
    ),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ThrowawayStore, ThrowawayService]]:
    with (
        ThrowawayStore(tcp=True, appendfsync="no") as store,
        ThrowawayService(tmp_path_factory.mktemp("data"), store=store.url) as service,
    ):
        wait_until_all_serve(service, 1)
        make_experiment(service, "e")
        yield store, service


@pytest.mark.parametrize("state", STATES)
def test_health_names_the_outage_while_it_lasts(
    running: tuple[ThrowawayStore, ThrowawayService], state: str
) -> None:
    store, service = running
    what, break_it = STATES[state]
    wait_until(lambda: not reasons(service))
    workers = service.worker_pids()
    assert rewarded(service, decided(service, "e")).status == 200
    with break_it(store):
        # No caller writes: the service finds out by itself.
        wait_until(lambda: what in reasons(service), NOTICED_S)
        token = decided(service, "e")
        refused = rewarded(service, token)
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert what in reasons(service)
        assert service.call("GET", "/v1/stats").body["status"] == "degraded"
    wait_until(lambda: not reasons(service), NOTICED_S)
    assert rewarded(service, token).body["verdicts"] == ["accepted"]
    assert service.worker_pids() == workers


@contextlib.contextmanager
def pair() -> Iterator[list[ThrowawayStore]]:
    """A primary and its replica, which may change places."""
    options = {"repl-diskless-sync-delay": "0"}
    with (
        ThrowawayStore(tcp=True, appendfsync="no", options=options) as one,
        ThrowawayStore(tcp=True, appendfsync="no", options=options) as two,
    ):
        follow(two, one)
        yield [one, two]


def follow(replica: ThrowawayStore, primary: ThrowawayStore) -> None:
    with replica.client() as client:
        client.replicaof("127.0.0.1", str(primary.port))
        wait_until(lambda: client.info("replication")["master_link_status"] == "up")


def fail_over(switch: SwitchingProxy, stores: list[ThrowawayStore]) -> None:
    """The replica takes over with everything that the primary has; the old primary lives on as its replica."""
    old, new = stores
    with old.client() as client, new.client() as successor:
        client.execute_command("FAILOVER")
        wait_until(lambda: successor.info("replication")["role"] == "master")
        switch.lead_to(new.port)
        wait_until(lambda: client.info("replication")["role"] == "slave")
    stores.reverse()


class HealthLog:
    """Records the answers of health ten times a second during a test."""

    def __init__(self, service: ThrowawayService) -> None:
        self._service = service
        self.seen: list[tuple[float, set[str]]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="health")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stopping.wait(0.1):
            self.seen.append((time.monotonic(), set(reasons(self._service))))

    def between(self, start_s: float, end_s: float) -> list[set[str]]:
        return [seen for at_s, seen in self.seen if start_s <= at_s <= end_s]


@pytest.mark.timeout(600)
def test_failovers_behind_one_address_lose_nothing_and_end_nobody(tmp_path: Path) -> None:
    with (
        pair() as stores,
        SwitchingProxy(stores[0].port) as switch,
        ThrowawayService(tmp_path, store=switch.url, workers=WORKERS) as service,
    ):
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "moved")
        workers = service.worker_pids()
        began_s = time.monotonic()
        with HealthLog(service) as health, Load(service.port, "moved") as load:
            load.wait_for_visits(100)
            for number in range(scaled(1, 8)):
                if number % 2:
                    fail_over(switch, stores)
                else:
                    fail_over_late(switch, stores, health)
                load.wait_for_visits(100)
                wait_until(lambda: not reasons(service), NOTICED_S)
                calm_s = time.monotonic()
                load.wait_for_visits(100)
                assert not any(health.between(calm_s, time.monotonic()))
            took_ms = load.tally.decision_p99_ms(began_s, time.monotonic())
        print(f"p99 of a decision: {took_ms:.1f} ms, answers {dict(load.tally.statuses)}")
        assert service.worker_pids() == workers
        assert not load.tally.failures
        with stores[0].client() as client:
            assert_counted(service, client, "moved", load.tally)
            assert_states_equal_replay(client, "moved", WORKERS)


def fail_over_late(switch: SwitchingProxy, stores: list[ThrowawayStore], health: HealthLog) -> None:
    """Fails over while the address leads to the old primary for seconds: it is read-only, and health reports it."""
    old, new = stores
    with old.client() as client, new.client() as successor:
        client.execute_command("FAILOVER")
        wait_until(lambda: successor.info("replication")["role"] == "master")
        wait_until(lambda: client.info("replication")["role"] == "slave")
    demoted_s = time.monotonic()
    wait_until(lambda: time.monotonic() > demoted_s + NOTICED_S + scaled(1, 5), 60)
    seen = health.between(demoted_s + NOTICED_S, time.monotonic())
    assert seen
    assert all("store_read_only" in each for each in seen)
    switch.lead_to(new.port)
    stores.reverse()
