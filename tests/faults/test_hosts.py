"""Two hosts over one store: one of them is cut off, goes on deciding, and comes back."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from consistency_checks import assert_counted, assert_states_equal_replay, log, make_experiment
from hosts import Hosts
from load import Load, Tally
from scale import scaled
from services import Answer, ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.log import events

WORKERS = 2
PASSWORD = "a-secret-of-the-store"
SERVED = ("left", "right")


@pytest.mark.timeout(600)
def test_a_host_that_is_cut_off_decides_and_comes_back_without_loss(tmp_path: Path) -> None:
    """An experiment ends meanwhile: whoever holds the lease, it ends once."""
    visits = scaled(50, 3_000)
    with ExitStack() as running:
        hosts = running.enter_context(Hosts(*SERVED, "store"))
        store = ThrowawayStore(tcp=True, options={"bind": "0.0.0.0", "requirepass": PASSWORD})
        hosts.on("store", lambda: running.enter_context(store))
        url = f"redis://:{PASSWORD}@{hosts.address('store')}:{store.port}/0"
        services = {name: ThrowawayService(tmp_path / name, store=url, workers=WORKERS) for name in SERVED}
        for name, service in services.items():
            hosts.on(name, lambda service=service: running.enter_context(service))

        def call(host: str, method: str, path: str, body: Any = None) -> Answer:
            return hosts.on(host, lambda: services[host].call(method, path, body))

        def wait_for(host: str, path: str, status: str) -> None:
            wait_until(lambda: call(host, "GET", path).body["status"] == status)

        hosts.on("left", lambda: make_experiment(services["left"], "shared"))
        loads = {
            name: Load(services[name].port, "shared", clients=4, pause_s=0.02, seed=seed)
            for seed, name in enumerate(SERVED)
        }
        with ExitStack() as loading:
            for name, load in loads.items():
                hosts.on(name, lambda load=load: loading.enter_context(load))
            for load in loads.values():
                load.wait_for_visits(visits)
            ending = {
                "id": "ending",
                "arms": [{"name": "a"}],
                "metrics": [{"name": "click", "kind": "binary"}],
            }
            ending |= {"stopping": {"duration": "3s"}, "attribution": {"window": "1h", "missing": "ignore"}}
            made = call("left", "POST", "/v1/experiments", ending)
            assert made.status == 201, made
            assert call("left", "POST", "/v1/experiments/ending/start").status == 200
            hosts.cut("right")
            decided = call("right", "POST", "/v1/experiments/shared/decide", {"unit": "u"})
            assert decided.status == 200, decided
            wait_for("right", "/health/ready", "degraded")
            reward = {"decision_id": decided.body["decision_id"], "value": 1.0}
            refused = call("right", "POST", "/v1/rewards", reward)
            assert (refused.status, "Retry-After" in refused.headers) == (503, True), refused
            assert call("right", "POST", "/v1/experiments/shared/decide", {"unit": "v"}).status == 200
            loads["left"].wait_for_visits(visits)
            wait_for("left", "/v1/experiments/ending", "stopped")
            hosts.mend("right")
            wait_for("right", "/health/ready", "ready")
            wait_for("right", "/v1/experiments/ending", "stopped")
            for load in loads.values():
                load.wait_for_visits(visits)
            assert call("left", "POST", "/v1/rewards", reward).body["verdicts"][0] in (
                "accepted",
                "duplicate",
            )
        everything = Tally(acknowledged={reward["decision_id"]: 1.0})
        for load in loads.values():
            everything.acknowledged |= load.tally.acknowledged
            everything.failures += load.tally.failures

        def compare() -> None:
            with redis.Redis.from_url(url) as client:
                assert_counted(services["left"], client, "shared", everything)
                assert_states_equal_replay(client, "shared", 2 * WORKERS)
                read = [events.decode(entry.kind, entry.data) for entry in log(client, "ending")]
            changed = [event for event in read if isinstance(event, events.Changed)]
            assert sum(event.record.status == "stopped" for event in changed) == 1

        hosts.on("left", compare)
        assert PASSWORD not in "".join(line for service in services.values() for line in service.output)
