"""Facts that real servers report of themselves, and the refusal of unsuitable ones."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from stores import ThrowawayStore, binary_id, server_binaries

from bandit_serve.errors import StoreRefused, StoreUnavailable
from bandit_serve.store import StoreFacts, check, inspect, open_client


@pytest.fixture(scope="module", params=server_binaries(), ids=binary_id)
def binary(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def facts_of(url: str) -> StoreFacts:
    async def ask() -> StoreFacts:
        client = open_client(url)
        try:
            return await inspect(client)
        finally:
            await client.aclose()

    return asyncio.run(ask())


def configure(store: ThrowawayStore, options: Mapping[str, str]) -> None:
    with store.client() as client:
        for name, value in options.items():
            client.config_set(name, value)


def test_what_a_server_says(binary: Path) -> None:
    with ThrowawayStore(binary=binary, options={"maxmemory": "64mb"}) as store:
        facts = facts_of(store.url)
    assert facts.name == ("valkey" if "valkey" in str(binary) else "redis")
    output = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    assert f" v={'.'.join(map(str, facts.version))} " in output
    assert facts.used_memory > 100_000
    assert replace(facts, name="", version=(), used_memory=0) == StoreFacts(
        name="",
        version=(),
        maxmemory=64 << 20,
        maxmemory_policy="noeviction",
        used_memory=0,
        appendonly="yes",
        appendfsync="always",
        save="",
        role="master",
        replicas=0,
        cluster_enabled=False,
    )
    check(facts)


@pytest.mark.parametrize("maxmemory", ["0", "1gb"])
@pytest.mark.parametrize(
    "policy",
    ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru", "volatile-ttl"],
)
def test_a_store_that_may_evict_is_refused(binary: Path, policy: str, maxmemory: str) -> None:
    options = {"maxmemory": maxmemory}
    with ThrowawayStore(binary=binary, maxmemory_policy=policy, options=options) as store:
        with pytest.raises(StoreRefused, match=rf"is {policy}\).*CONFIG SET maxmemory-policy noeviction"):
            check(facts_of(store.url))
        configure(store, {"maxmemory-policy": "noeviction"})
        check(facts_of(store.url))


def test_a_replica_is_refused(binary: Path) -> None:
    with ThrowawayStore(binary=binary) as store, store.client() as client:
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreRefused, match="read-only replica"):
            check(facts_of(store.url))


def test_a_node_of_a_cluster_is_refused(binary: Path) -> None:
    with ThrowawayStore(binary=binary, tcp=True, options={"cluster-enabled": "yes"}) as store:
        facts = facts_of(store.url)
    with pytest.raises(StoreRefused, match="Redis Cluster"):
        check(facts)


def test_an_old_redis_is_refused(binary: Path) -> None:
    with ThrowawayStore(binary=binary) as store:
        facts = replace(facts_of(store.url), name="redis")
    for version in ((6, 0, 16), (6, 1, 240)):
        with pytest.raises(StoreRefused, match=r"6\.2 or later"):
            check(replace(facts, version=version))
    for version in ((6, 2, 0), (7, 0, 15), (8, 2, 1)):
        check(replace(facts, version=version))


def test_durability(binary: Path) -> None:
    with ThrowawayStore(binary=binary) as store:
        sentences = []
        for options in (
            {"appendfsync": "always"},
            {"appendfsync": "everysec"},
            {"appendfsync": "no"},
            {"appendonly": "no", "save": "3600 1"},
            {"appendonly": "no", "save": ""},
        ):
            configure(store, options)
            sentences.append(facts_of(store.url).durability)
        facts = facts_of(store.url)
    for sentence, words in zip(
        sentences,
        (
            "on that node's disk.",
            "a power cut may lose up to about two seconds.",
            "a power cut may lose what the system wrote late",
            "loses what came after its last snapshot.",
            "loses everything.",
        ),
        strict=True,
    ):
        assert words in sentence
    assert replace(facts, appendonly="yes", replicas=2).durability.endswith(
        "; a failover may lose what no replica had yet."
    )
    assert "unknown" in replace(facts, appendonly="unknown").durability


def test_where_config_is_forbidden(binary: Path) -> None:
    with ThrowawayStore(binary=binary, maxmemory_policy="volatile-lru") as store:
        with store.client() as client:
            client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config")
        facts = facts_of(f"{store.url}?username=app&password=pw")
        assert (facts.maxmemory_policy, facts.appendonly) == ("volatile-lru", "yes")
        assert (facts.appendfsync, facts.save) == ("unknown", "unknown")
        assert "unknown" in facts.durability
        with pytest.raises(StoreRefused, match="may evict"):
            check(facts)


def test_a_store_that_is_gone() -> None:
    with ThrowawayStore() as store:
        pass
    with pytest.raises(StoreUnavailable):
        facts_of(store.url)
