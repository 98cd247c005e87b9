"""Limit of a tenant's logs in a real service: its own are trimmed, nobody else's, and all that was counted stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import redis
from commands import bandit_serve
from http_calls import decide_many, reward_many, running
from services import ThrowawayService
from stores import wait_until
from tenancy import Caller, make

from bandit_serve.log.offset import START, Offset
from bandit_serve.store.keys import Keys

LOG_BYTES = 2**20
CONFIG = f"""
[tenants.small]
log_bytes = {LOG_BYTES}
"""
ROUND = 2_000
MAX_ROUNDS = 60


def test_logs_of_a_tenant_keep_within_their_bytes(tmp_path: Path) -> None:
    """Two experiments write as much in a tenant with the limit as in one without: only the first one's are trimmed."""
    (tmp_path / "c.toml").write_text(CONFIG)
    data = tmp_path / "d"
    made = {tenant: make(data, "--scope", "admin", "--tenant", tenant) for tenant in ("small", "large")}
    flags = ("--config", str(tmp_path / "c.toml"), "--snapshot-every", "1s")
    with (
        ThrowawayService(data, *flags) as service,
        redis.Redis(unix_socket_path=str(data / "store.sock")) as store,
    ):
        names = ("one", "two")
        written: dict[tuple[str, str], int] = {}
        last: dict[tuple[str, str], str] = {}

        def keys_of(tenant: str) -> Keys:
            return Keys(f"bandit_serve/{tenant}")

        def size(tenant: str) -> int:
            return sum(int(store.memory_usage(keys_of(tenant).log(name), samples=100) or 0) for name in names)  # type: ignore[arg-type]

        def trimmed(tenant: str, name: str) -> Offset:
            found: Any = store.get(keys_of(tenant).trimmed(name))
            return Offset.parse(found) if found else START

        for tenant in made:
            for name in names:
                running(Caller(service, made[tenant]), id=name)  # type: ignore[arg-type]

        def write(round_: int) -> None:
            for tenant, key in made.items():
                caller: Any = Caller(service, key)
                for name in names:
                    units = [f"{round_}-{i}" for i in range(ROUND)]
                    tokens = decide_many(caller, name, units)["decision_ids"]
                    assert set(reward_many(caller, tokens, [float(i % 2) for i in range(ROUND)])) == {
                        "accepted"
                    }
                    written[tenant, name] = written.get((tenant, name), 0) + ROUND
                    last[tenant, name] = tokens[-1]

        for round_ in range(MAX_ROUNDS):
            write(round_)
            if all(trimmed("small", name) > START for name in names):
                break
        wait_until(lambda: size("small") <= LOG_BYTES)
        assert all(trimmed("small", name) > START for name in names)
        assert all(trimmed("large", name) == START for name in names)
        assert size("large") > LOG_BYTES
        for (tenant, name), n in written.items():
            caller: Any = Caller(service, made[tenant])

            def counted(caller: Any = caller, name: str = name) -> tuple[int, int]:
                arms = caller.call("GET", f"/v1/experiments/{name}/results").body["arms"]
                return (
                    sum(arm["exposures"] for arm in arms),
                    sum(arm["metrics"]["click"]["n"] for arm in arms),
                )

            wait_until(lambda counted=counted, n=n: counted() == (n, n))  # type: ignore[misc]
            again = {"rewards": [{"decision_id": last[tenant, name], "value": float((ROUND - 1) % 2)}]}
            assert caller.call("POST", "/v1/rewards", again).body["verdicts"] == ["duplicate"]
            assert bandit_serve("replay", name, "--data", data, "--tenant", tenant).status == 0
