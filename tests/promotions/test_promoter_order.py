"""Order of promotions: one that waits for traffic, or for a long look, holds up no other."""

from __future__ import annotations

from pathlib import Path

from promoting import at_step, begin, ended, make_model
from services import ThrowawayService

WAITING = {"shadow": {"requests": 1_000_000, "gate": "errors <= 0.1"}}


def test_promotions_without_traffic_hold_up_no_other(service: ThrowawayService, tmp_path: Path) -> None:
    for number in range(16):
        make_model(service, tmp_path, f"waits-{number}")
    waiting = {name: begin(service, name, WAITING) for name in (f"waits-{number}" for number in range(16))}
    for name, id in waiting.items():
        at_step(service, name, id, "shadow")
    make_model(service, tmp_path, "goes-on")
    id = begin(service, "goes-on", {"offline": "rmse <= 1.0"})
    assert ended(service, "goes-on", id)["state"] == "production"
    last, last_id = list(waiting.items())[-1]
    assert service.call("POST", f"/v1/models/{last}/promotions/{last_id}/cancel").status == 200
    assert begin(service, last, {"offline": "rmse <= 1.0"})
