"""Checks of a service during an outage of its store: answers, health, and the end of workers."""

from __future__ import annotations

import os
import signal
from typing import Any

from services import ThrowawayService
from stores import wait_until

NOTICED_S = 3.0


def reasons(service: ThrowawayService) -> dict[str, str]:
    answer = service.call("GET", "/health/ready")
    assert answer.status == 200
    assert (answer.body["status"] == "degraded") == ("reasons" in answer.body)
    return {reason["what"]: reason["detail"] for reason in answer.body.get("reasons", [])}


def decided(service: ThrowawayService, name: str) -> str:
    answer = service.call("POST", f"/v1/experiments/{name}/decide", {"unit": "u"})
    assert answer.status == 200
    token: str = answer.body["decision_id"]
    return token


def rewarded(service: ThrowawayService, token: str) -> Any:
    return service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1.0})


def kill_workers(service: ThrowawayService) -> None:
    """Kills all workers at once; returns when their successors serve."""
    killed = service.worker_pids()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(killed) & set(service.worker_pids()))
