"""Checks that the results, the log and the folds of a service agree, each read on its own."""

from __future__ import annotations

import http.client
import math
import secrets
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import redis
from load import Tally
from numpy.typing import NDArray
from services import ThrowawayService
from stores import wait_until

from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.log.offset import START, Offset
from bandit_serve.store.keys import Keys

KEYS = Keys()
Decision = tuple[int, int]
"""Incarnation and number."""
WAIT_S = 30.0


def make_experiment(
    service: ThrowawayService,
    name: str,
    *,
    unit: str = "request",
    policy: dict[str, Any] | None = None,
    window: str = "1h",
    missing: str = "ignore",
) -> None:
    """Creates and starts an experiment with two arms, by default under Thompson sampling."""
    made = service.call(
        "POST",
        "/v1/experiments",
        {
            "id": name,
            "arms": [{"name": "control"}, {"name": "challenger"}],
            "unit": unit,
            "policy": policy or {"kind": "thompson", "min_share": 0.1},
            "metrics": [{"name": "click", "kind": "binary"}],
            "attribution": {"window": window, "missing": missing},
        },
    )
    assert made.status == 201, made.body
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200


def wait_until_all_serve(service: ThrowawayService, workers: int) -> None:
    """Returns when `workers` workers have loaded their state and report it."""

    def all_serve() -> bool:
        try:
            stats = service.call("GET", "/v1/stats")
        except (OSError, http.client.HTTPException):
            return False
        pids = set(service.worker_pids())
        return (
            stats.status == 200
            and len(pids) == workers
            and pids <= {worker["pid"] for worker in stats.body["workers"]}
        )

    wait_until(all_serve, WAIT_S)


def private_store(service: ThrowawayService) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(service.data / "store.sock"))


def lease_holder(service: ThrowawayService) -> int:
    """Process id of the worker that holds the lease."""
    found: list[int] = []

    def is_found() -> bool:
        with private_store(service) as client:
            holder: Any = client.get(KEYS.lease)
        workers = service.call("GET", "/v1/stats").body["workers"]
        found[:] = [each["pid"] for each in workers if holder and each["id"] == holder.decode()]
        return bool(found)

    wait_until(is_found, WAIT_S)
    return found[0]


def log(client: redis.Redis, name: str, keys: Keys = KEYS) -> list[Entry]:
    items: Any = client.xrange(keys.log(name))
    return [Entry(Offset.parse(at), *next(iter(fields.items()))) for at, fields in items]


def logged_rewards(entries: list[Entry]) -> NDArray[np.void]:
    parts = [np.frombuffer(entry.data, events.REWARD) for entry in entries if entry.kind == events.REWARDED]
    return np.concatenate([np.empty(0, events.REWARD), *parts])


def logged_values(client: redis.Redis, name: str) -> dict[tuple[Decision, int], float]:
    """Value of each decision on each metric by the log, whose every row has to begin where the one before ended."""
    values: dict[tuple[Decision, int], float] = {}
    for entry in log(client, name):
        if entry.kind not in (events.REWARDED, events.REVISED):
            continue
        event = events.decode(entry.kind, entry.data)
        assert isinstance(event, events.Rewarded | events.Revised)
        for row in event.rows:
            key = ((int(row["incarnation"]), int(row["counter"])), int(row["metric"]))
            former = values.get(key, math.nan)
            if isinstance(event, events.Revised):
                assert repr(float(row["former"])) == repr(former), (key, row)
            else:
                assert key not in values, "a plain reward counts once"
            values[key] = float(row["value"])
    return values


def replay(client: redis.Redis, name: str, until: Offset, keys: Keys = KEYS) -> LiveExperiment:
    """Folds the log up to `until`, from the oldest snapshot that it still reaches back to."""
    replica = Replica()
    trimmed: Any = client.get(keys.trimmed(name))
    after = START
    if trimmed:
        snapshots: Any = client.hgetall(keys.snapshots(name, POLICY_FOLD))
        after = min(offset for offset in map(Offset.parse, snapshots) if offset >= Offset.parse(trimmed))
        replica.restore(LiveExperiment.from_state(after, snapshots[str(after).encode()]))
    for entry in log(client, name, keys):
        if after < entry.offset <= until:
            replica.apply(name, entry)
    return replica.experiments[name]


def census(client: redis.Redis, name: str, workers: int, keys: Keys = KEYS) -> tuple[Offset, dict[str, str]]:
    """Asks every worker for the digest of its state at one offset."""
    key = keys.census(name, secrets.token_hex(8))
    asked: Any = client.xadd(keys.log(name), {events.CENSUS: events.encode(events.Census(key))})
    until_s = time.monotonic() + WAIT_S
    while client.hlen(key) < workers:
        assert time.monotonic() < until_s, f"{client.hlen(key)} of {workers} workers answered the census"
        time.sleep(0.01)
    answers: Any = client.hgetall(key)
    return Offset.parse(asked), {worker.decode(): digest.decode() for worker, digest in answers.items()}


def assert_states_equal_replay(client: redis.Redis, name: str, workers: int, keys: Keys = KEYS) -> None:
    """Asserts that every worker's state equals a replay of the log, bit for bit."""
    offset, digests = census(client, name, workers, keys)
    replayed = replay(client, name, offset, keys).digest()
    assert set(digests.values()) == {replayed}, f"workers {digests}, replay {replayed}"


def assert_counted(
    service: ThrowawayService, client: redis.Redis, name: str, tally: Tally, keys: Keys = KEYS
) -> None:
    """Asserts that results, fold and log count exactly the acknowledged rewards: none lost, none twice."""
    n = len(tally.acknowledged)
    assert n > 0
    assert not tally.failures, tally.failures[:5]
    rows = logged_rewards(log(client, name, keys))
    distinct = np.unique(rows[["incarnation", "counter", "metric"]])
    results = service.call("GET", f"/v1/experiments/{name}/results").body
    counted = {
        "acknowledged": n,
        "rows": len(rows),
        "distinct rows": len(distinct),
        "results": sum(arm["metrics"]["click"]["n"] for arm in results["arms"]),
        "fold": sum(replay(client, name, Offset(2**62, 0), keys).rewards.tolist()),
    }
    print(
        counted, "verdicts", dict(tally.verdicts), "answers", dict(tally.statuses), "dropped", tally.dropped
    )
    assert set(counted.values()) == {n}, counted
    assert rows["value"].sum() == sum(tally.acknowledged.values())


def counted_in(service: ThrowawayService, name: str) -> int:
    """Rewards of an experiment, as counted by the worker that answers."""
    folded: Mapping[str, int] = service.call("GET", "/v1/stats").body["experiments"][name]["rewards"]
    return sum(folded.values())
