"""Rewards by event and by unit, exposures, and OFREP's flags, with both clients and a real service."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bandit_serve_client import Client, Conflict, OutboxSettings, Reward, SyncClient, UnitReward
from bandit_serve_client.openfeature import RewardingProvider
from both_clients import CLIENTS
from described_traffic import Traffic
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.track import TrackingEventDetails
from scale import scaled
from services import ThrowawayService

RESTARTED_AT = range(100, 600, scaled(400, 50))
CHECKOUT = {
    "id": "checkout",
    "unit": "user",
    "arms": [{"name": "old"}, {"name": "new"}],
    "metrics": [
        {"name": "revenue", "kind": "continuous", "role": "objective"},
        {"name": "paid", "kind": "binary"},
    ],
    "attribution": {"window": "1h", "missing": "ignore"},
    "policy": {"kind": "fixed_split"},
}


@pytest.fixture
def checkout(service: ThrowawayService) -> Iterator[str]:
    with SyncClient(service.url) as client:
        client.experiments.create(CHECKOUT)
        client.experiments.start("checkout")
        yield service.url
        client.experiments.stop("checkout")
        client.experiments.delete("checkout")


@pytest.fixture(scope="module")
def traffic(service: ThrowawayService) -> Traffic:
    return Traffic(service.call("GET", "/openapi.json").body)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, checkout: str, traffic: Traffic) -> Iterator[Any]:
    """A client whose requests and answers are compared with the description."""
    with CLIENTS[request.param](checkout) as made, traffic.checked():
        yield made


def total(url: str, metric: str) -> tuple[int, float]:
    """Units and the sum of their values, over all arms."""
    with SyncClient(url) as client:
        metrics = [arm.metrics[metric] for arm in client.experiments.results("checkout").arms]
    return sum(each.n for each in metrics), sum(each.n * (each.mean or 0.0) for each in metrics)


def test_events_add_up_and_are_corrected_and_taken_back(client: Any, checkout: str) -> None:
    decided = client.decide("checkout", unit="ann")
    send = client.reward
    assert send(decided.decision_id, 10.0, event_id="o1") == "accepted"
    assert send(decided.decision_id, 10.0, event_id="o1") == "duplicate"
    assert send(decided.decision_id, 2.5, event_id="o2") == "accepted"
    assert total(checkout, "revenue") == (1, 12.5)
    assert send(decided.decision_id, 20.0, event_id="o1") == "corrected"
    assert total(checkout, "revenue") == (1, 22.5)
    assert send(decided.decision_id, None, event_id="o2") == "retracted"
    assert send(decided.decision_id, None, event_id="o3") == "unmatched"
    assert total(checkout, "revenue") == (1, 20.0)


def test_a_second_value_without_an_event_is_a_conflict(client: Any, checkout: str) -> None:
    decided = client.decide("checkout", unit="ann")
    assert client.reward(decided.decision_id, 10.0) == "accepted"
    assert client.reward(decided.decision_id, 10.0) == "duplicate"
    with pytest.raises(Conflict):
        client.reward(decided.decision_id, 11.0)
    assert total(checkout, "revenue") == (1, 10.0)


def test_a_unit_is_rewarded_without_a_token(client: Any, checkout: str) -> None:
    client.decide("checkout", unit="ann")
    track = client.track
    assert track("checkout", unit="ann", metric="revenue", value=25.0, event_id="order-17") == "accepted"
    assert track("checkout", unit="ann", metric="revenue", value=25.0, event_id="order-17") == "duplicate"
    assert track("checkout", unit="ann", metric="revenue", value=1.0) == "accepted"
    assert track("checkout", unit="ann", metric="paid") == "accepted"
    before = datetime.now(UTC) - timedelta(minutes=30)
    assert track("checkout", unit="ann", value=5.0, at=before) == "unmatched"
    assert track("checkout", unit="stranger", value=5.0) == "unmatched"
    report = client.rewards(
        [
            UnitReward(experiment="checkout", unit="ann", value=3.0, event_id="a"),
            UnitReward(experiment="checkout", unit="ann", value=3.0, event_id="a"),
        ]
    )
    assert report.verdicts == ("accepted", "duplicate")
    assert total(checkout, "revenue") == (1, 29.0)
    assert total(checkout, "paid") == (1, 1.0)


def test_what_is_evaluated_in_bulk_is_exposed_once(client: Any, checkout: str, traffic: Traffic) -> None:
    request = urllib.request.Request(
        f"{checkout}/ofrep/v1/evaluate/flags",
        data=json.dumps({"context": {"targetingKey": "ann"}}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        (flag,) = [flag for flag in json.load(response)["flags"] if flag["key"] == "checkout"]
    decision_id = flag["metadata"]["decision_id"]
    assert client.exposures([decision_id]).accepted == 1
    assert client.exposures([decision_id]).duplicates == 1
    assert client.exposures(["forged"]).rejected == 1
    assert "expose" in traffic.operations


def test_the_contract_s_example(checkout: str) -> None:
    async def play() -> None:
        async with Client(checkout, key=None) as c:
            d = await c.decide("checkout", unit="u1")
            assert await c.reward(d.decision_id, 1.0) == "accepted"
            async with c.deciding("checkout", unit="u1") as opened:
                opened.reward(1.0, metric="paid", event_id="order-17")
            await c.track("checkout", unit="u1", metric="revenue", value=25.0, event_id="order-17")

    asyncio.run(play())
    assert total(checkout, "revenue") == (1, 26.0)
    assert total(checkout, "paid") == (1, 1.0)


def test_the_ofrep_provider_s_events_become_rewards(checkout: str) -> None:
    with SyncClient(checkout) as sending:
        rewards = {"purchase": {"checkout": "revenue"}}
        provider = RewardingProvider(OFREPProvider(checkout), sending.queue, rewards)
        domain = uuid.uuid4().hex
        api.set_provider(provider, domain)
        flags = api.get_client(domain)
        for key in ("ann", "bob"):
            context = EvaluationContext(targeting_key=key)
            assert flags.get_string_value("checkout", "off", context) in ("old", "new")
            for order in ("o1", "o2", "o2"):
                flags.track("purchase", context, TrackingEventDetails(2.0, {"event_id": f"{key}-{order}"}))
        assert sending.flush(20)
        assert sending.counts == {"accepted": 4, "duplicate": 2}
        api.clear_providers()
    assert total(checkout, "revenue") == (2, 8.0)


@pytest.mark.parametrize("name", CLIENTS)
def test_events_count_once_though_the_service_is_killed(name: str, tmp_path: Path) -> None:
    """Sums are those of the ledger, whatever was sent again."""
    with ThrowawayService(tmp_path / "data") as service:
        settings = OutboxSettings(flush_every=0.01, flush_at=20, close_timeout=30)
        with CLIENTS[name](service.url, timeout=5, outbox=settings) as client:
            client.experiments.create(CHECKOUT)
            client.experiments.start("checkout")
            tokens = [client.decide("checkout", unit=f"u{n}").decision_id for n in range(20)]
            ledger: dict[tuple[int, int], float] = {}
            for i in range(600):
                unit, event = i % 20, i % 60
                ledger[unit, event] = float(i)
                client.queue(Reward(tokens[unit], float(i), "revenue", f"e{unit}-{event}"))
                if i in RESTARTED_AT:
                    for pid in service.worker_pids():
                        os.kill(pid, 9)
                    service.kill()
                    service.start()
            assert client.flush(60)
        assert total(service.url, "revenue") == (20, sum(ledger.values()))
