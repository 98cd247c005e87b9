"""Tenants of one service over stores that fail over: each counts its own rewards, once, and none meets another's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from clusters import ThrowawayCluster
from commands import bandit_serve
from consistency_checks import assert_counted, assert_states_equal_replay, make_experiment
from load import Load, Tally
from scale import scaled
from sentinel_sets import ThrowawaySentinels
from services import ThrowawayService
from stores import wait_until
from tenancy import Caller, Made

from bandit_serve.store.keys import BY_BUCKET, BY_EXPERIMENT, COMMON, KeyLayout, Keys

TENANTS = (None, "alpha", "beta")
NAME = "checkout"
WORKERS = 2
# A busy machine is no outage.
PATIENT = ("--store-timeout", "3s")
REPLICAS = {"cluster": 1, "sentinel": 2}
"""All that a master has: whichever is promoted then has what was acknowledged."""


class House(NamedTuple):
    """Service over the store at `url`, a key of each tenant, and how the store is disturbed."""

    url: str
    service: ThrowawayService
    made: dict[str | None, Made]
    layout: KeyLayout
    disturb: Callable[[int], None]
    client: Callable[[], Any]

    def of(self, tenant: str | None) -> Any:
        return Caller(self.service, self.made[tenant])

    def keys(self, tenant: str | None) -> Keys:
        return Keys("bandit_serve" if tenant is None else f"bandit_serve/{tenant}", self.layout)

    def are_well(self) -> bool:
        """Whether both workers are, in every tenant; each answers some of the calls."""
        asked = [self.of(tenant).call("GET", "/v1/stats") for tenant in TENANTS for _ in range(8)]
        return all(answer.status == 200 and answer.body["status"] == "ready" for answer in asked)


@contextlib.contextmanager
def house_of(kind: str, folder: Path) -> Iterator[House]:
    made: dict[str | None, Made] = {}
    servers: Any = ThrowawayCluster() if kind == "cluster" else ThrowawaySentinels()
    with servers:
        for tenant in TENANTS:
            flags = () if tenant is None else ("--tenant", tenant)
            where = ("--store", servers.url, "--data", folder, *PATIENT, "--json")
            ran = bandit_serve("keys", "create", "--scope", "admin", *flags, *where)
            assert ran.status == 0, ran.err
            made[tenant] = Made(**ran.document)
        keys = Keys(layout=BY_BUCKET)

        def disturb(number: int) -> None:
            # In a cluster in turn the shard of the common keys of all, and that of the experiments.
            what = (keys.log(COMMON if number % 2 else NAME),) if kind == "cluster" else ()
            servers.revive(servers.fail_over(*what))

        def client() -> Any:
            if kind == "cluster":
                return redis.RedisCluster(host="127.0.0.1", port=servers.alive()[0].port)
            return servers.master().client()

        flags = ("--store-replicas", str(REPLICAS[kind]), *PATIENT)
        with ThrowawayService(folder, *flags, store=servers.url, workers=WORKERS) as service:
            layout = BY_BUCKET if kind == "cluster" else BY_EXPERIMENT
            yield House(servers.url, service, made, layout, disturb, client)


def under_load(house: House, tenants: tuple[str | None, ...], disturb: Callable[[list[Load]], None]) -> Any:
    port = house.service.port
    loads = [
        Load(port, NAME, clients=3, pause_s=0.02, seed=i, key=house.made[tenant].key)
        for i, tenant in enumerate(tenants)
    ]
    with contextlib.ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        for load in loads:
            load.wait_for_visits(20)
        disturb(loads)
        for load in loads:
            load.wait_for_visits(20)
    return dict(zip(tenants, (load.tally for load in loads), strict=True))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_tenants_are_apart_and_exact_through_failovers(kind: str, tmp_path: Path) -> None:
    """Experiments of one name, under load; then a tenant goes, which closes nothing of the others, and is back."""
    with house_of(kind, tmp_path) as house:
        for tenant in TENANTS:
            make_experiment(house.of(tenant), NAME)

        def fail_over(loads: list[Load]) -> None:
            for number in range(scaled(2, 10)):
                house.disturb(number)
                for load in loads:
                    load.wait_for_visits(20)

        tallies = under_load(house, TENANTS, fail_over)
        wait_until(house.are_well)
        with house.client() as client:
            for tenant in TENANTS:
                check(house, client, tenant, tallies[tenant])
        tokens = {tenant: next(iter(tally.acknowledged)) for tenant, tally in tallies.items()}
        for tenant in TENANTS:
            others = [tokens[other] for other in TENANTS if other != tenant]
            sent = {"rewards": [{"decision_id": token, "value": 1} for token in others]}
            assert house.of(tenant).call("POST", "/v1/rewards", sent).body["verdicts"] == ["invalid"] * 2
        back_up_and_restore(house, tallies, tmp_path)
        remove_and_bring_back(house, tallies["beta"])
        assert not any("a background task ended" in line for line in house.service.output)


def check(house: House, client: Any, tenant: str | None, tally: Tally) -> None:
    assert_counted(house.of(tenant), client, NAME, tally, house.keys(tenant))
    assert_states_equal_replay(client, NAME, WORKERS, house.keys(tenant))


def back_up_and_restore(house: House, tallies: dict[str | None, Tally], folder: Path) -> None:
    """Into another namespace of the same store, where a service of its own counts the same."""
    where = ("--store", house.url, "--data", folder / "restored")
    namespace = ("--namespace", "restored")
    taken = bandit_serve("backup", "--out", folder / "b", *where, "--json")
    assert taken.status == 0, taken.err
    restored = bandit_serve("restore", folder / "b", *where, *namespace, "--json")
    assert restored.status == 0, restored.err
    assert restored.document["logs"] == taken.document["logs"] == 2 * len(TENANTS)
    with ThrowawayService(folder / "restored", *namespace, store=house.url) as service:
        for tenant in TENANTS:
            caller: Any = Caller(service, house.made[tenant])
            results = caller.call("GET", f"/v1/experiments/{NAME}/results").body
            assert sum(arm["metrics"]["click"]["n"] for arm in results["arms"]) == len(
                tallies[tenant].acknowledged
            )


def new_key(root: Any, tenant: str) -> Made:
    """Key of a tenant. While the store fails over, which sentinels may do on a busy machine, it is asked for again."""
    answers: list[Any] = []

    def is_made() -> bool:
        answers.append(root.call("POST", "/v1/keys", {"scope": "admin", "tenant": tenant}))
        assert answers[-1].status in (201, 503), answers[-1]
        return bool(answers[-1].status == 201)

    wait_until(is_made)
    return Made(**answers[-1].body)


def remove_and_bring_back(house: House, former: Tally) -> None:
    root, made = house.of(None), house.made["beta"]
    gone = house.of("beta")

    def remove(loads: list[Load]) -> None:
        assert root.call("DELETE", f"/v1/keys/{made.id}").status == 204
        wait_until(lambda: "beta" not in root.call("GET", "/v1/stats").body["tenants"])
        assert gone.call("GET", "/v1/experiments").status == 401
        for load in loads:
            load.wait_for_visits(20)
        house.disturb(0)

    tallies = under_load(house, (None, "alpha"), remove)
    assert not any(tally.failures for tally in tallies.values())
    house.made["beta"] = new_key(root, "beta")
    wait_until(house.are_well)
    results = house.of("beta").call("GET", f"/v1/experiments/{NAME}/results").body
    assert sum(arm["metrics"]["click"]["n"] for arm in results["arms"]) == len(former.acknowledged)
