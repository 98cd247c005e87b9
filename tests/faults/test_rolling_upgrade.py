"""Rolling upgrade, and back: services of the former version and of this one, behind a balancer and under load."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from balancer import Balancer
from commands import bandit_serve
from consistency_checks import assert_counted, assert_states_equal_replay, make_experiment
from former import former_checkout
from load import Load
from scale import scaled
from services import ROOT, ThrowawayService
from stores import ThrowawayStore, wait_until

WORKERS = 2
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "adversarial": {"policy": {"kind": "exp3", "min_share": 0.1}},
    "sticky": {"unit": "user", "policy": {"kind": "fixed_split"}},
}


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return former_checkout(tmp_path_factory.mktemp("former"))


class Fleet:
    """Two services on one store behind a balancer. A newcomer is ready before the one that it replaces leaves."""

    def __init__(self, folder: Path, store: ThrowawayStore, balancer: Balancer, running: ExitStack) -> None:
        self._folder = folder
        self._store = store
        self._balancer = balancer
        self._running = running
        self.services: list[ThrowawayService] = []
        self._started = 0

    def start(self, checkout: Path) -> None:
        data = self._folder / f"data-{self._started}"
        self._started += 1
        service = ThrowawayService(data, store=self._store.url, workers=WORKERS, checkout=checkout)
        self._running.enter_context(service)
        service.wait_for_workers(WORKERS)
        self.services.append(service)
        self._balancer.ports.append(service.port)

    def replace_oldest(self, checkout: Path) -> None:
        self.start(checkout)
        oldest = self.services.pop(0)
        assert oldest.stop() == 0, "".join(oldest.output)
        self._balancer.ports.remove(oldest.port)

    def verdict(self) -> str:
        """What `doctor` says of the workers, once none is left of those that were replaced."""
        check: dict[str, str] = {}

        def settled() -> bool:
            ran = bandit_serve(
                "doctor", "--json", "--store", self._store.url, "--data", self._folder / "none"
            )
            check.update(next(each for each in ran.document["checks"] if each["name"] == "workers"))
            return check["detail"].startswith(f"{WORKERS * len(self.services)} alive")

        wait_until(settled, 60)
        return check["verdict"]


@pytest.mark.skipif(not scaled(0, 1), reason="a former version is built at full scale")
@pytest.mark.timeout(900)
def test_no_request_fails_while_services_are_upgraded_and_taken_back(
    former: Path, store: ThrowawayStore, tmp_path: Path
) -> None:
    visits = scaled(50, 3_000)
    with ExitStack() as running:
        balancer = running.enter_context(Balancer())
        fleet = Fleet(tmp_path, store, balancer, running)
        for _ in range(2):
            fleet.start(former)
        for name, about in EXPERIMENTS.items():
            make_experiment(fleet.services[0], name, **about)
        loads = {
            name: Load(balancer.port, name, strict=True, clients=4, pause_s=0.02, seed=seed)
            for seed, name in enumerate(EXPERIMENTS)
        }

        def visit() -> None:
            for load in loads.values():
                load.wait_for_visits(visits)

        with ExitStack() as loading:
            for load in loads.values():
                loading.enter_context(load)
            visit()
            for checkout, verdict in ((ROOT, "warning"), (ROOT, "ok"), (former, "warning"), (former, "ok")):
                fleet.replace_oldest(checkout)
                visit()
                assert fleet.verdict() == verdict, checkout
                if (checkout, verdict) == (ROOT, "ok"):
                    with store.client() as client:
                        for name in EXPERIMENTS:
                            assert_states_equal_replay(client, name, 2 * WORKERS)
        for name, load in loads.items():
            tally = load.tally
            assert (tally.failures, tally.refused, tally.dropped) == ([], 0, 0), name
            assert set(tally.statuses) == {200}, name
            with store.client() as client:
                assert_counted(fleet.services[0], client, name, tally)
