"""Webhooks of a service with tenants: events of equal names are told apart, each once, and say whose they are."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from http_calls import running
from services import ThrowawayService
from stores import ThrowawayStore, wait_until
from tenancy import Caller, keys_of, make
from webhook_receiver import SECRET, WebhookReceiver, unreliable

from bandit_serve.store.keys import Keys

TENANTS = ("alpha", "Beta")


def test_experiments_of_one_name_are_told_apart(
    store: ThrowawayStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same happens to the service itself and to two tenants, and half of the workers are killed meanwhile."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    where = ("--store", store.url, "--data", str(tmp_path / "d"))
    made = make(tmp_path / "d", "--scope", "admin", *where[:2])
    with WebhookReceiver(unreliable) as receiver:
        webhooks = json.dumps([receiver.webhook("winner", "set_aside")])
        with ThrowawayService(tmp_path / "d", "--webhooks", webhooks, store=store.url, workers=2) as service:
            root = Caller(service, made)
            callers: dict[str | None, Any] = {None: root}
            for tenant in TENANTS:
                callers[tenant] = Caller(service, keys_of(root, tenant)["admin"])
            expected: dict[str, tuple[str, str | None, str]] = {}
            for tenant, caller in callers.items():
                wait_until(lambda caller=caller: caller.call("GET", "/v1/experiments").status == 200)
                prefix = "" if tenant is None else f"{tenant}/"
                running(caller, id="same")
                stopped = caller.call("POST", "/v1/experiments/same/stop", {"winner": "challenger"})
                assert stopped.status == 200, stopped
                expected[f"{prefix}winner:same:{stopped.body['revision']}"] = ("winner", tenant, "same")
                running(caller, id="broken")
                keys = Keys("bandit_serve" if tenant is None else f"bandit_serve/{tenant}")
                with store.client() as client:
                    bad = client.xadd(keys.log("broken"), {b"z": b"\x80"}).decode()
                expected[f"{prefix}set_aside:broken:{bad}"] = ("set_aside", tenant, "broken")
            os.kill(service.worker_pids()[0], signal.SIGKILL)
            wait_until(lambda: len(receiver.bodies) == len(expected), 120)
            found = {
                id: (body["event"], body.get("tenant"), body["experiment"])
                for id, body in receiver.bodies.items()
            }
            assert found == expected
            for tenant, caller in callers.items():
                seen = caller.call("GET", "/metrics").body.decode()
                assert 'bandit_serve_webhooks_total{result="delivered"' in seen, tenant
        assert not receiver.faults
