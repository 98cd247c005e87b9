"""Promotions of a running service: models with a version in production, and what becomes of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commands import save_model
from http_calls import upload
from services import ThrowawayService
from stores import wait_until

RMSE = {"v1": 0.9, "v2": 0.8, "worse": 1.2}
ENDS = ("production", "stopped", "cancelled")


def make_model(
    service: ThrowawayService, folder: Path, model: str, versions: tuple[str, ...] = ("v1", "v2")
) -> None:
    """Registers versions of a model, the first of which goes into production."""
    for place, version in enumerate(versions):
        path = save_model(folder / f"{model}-{version}.safetensors", (4.0, 5.0, 3.0 + place / 50))
        about = {"version": version, "metrics": {"rmse": RMSE.get(version, 0.8)}}
        assert upload(service, model, path.read_bytes(), about).status == 201
    moved = service.call(
        "POST", f"/v1/models/{model}/versions/{versions[0]}/status", {"status": "production"}
    )
    assert moved.status == 200, moved


def begin(service: ThrowawayService, model: str, plan: dict[str, Any], version: str = "v2") -> str:
    """Begins a promotion, once the former one has given its arm back; returns its id."""
    begun: list[Any] = []

    def is_begun() -> bool:
        answer = service.call("POST", f"/v1/models/{model}/promotions", {"version": version, "plan": plan})
        begun[:] = [answer]
        return "still to be taken back" not in str(answer.body)

    wait_until(is_begun)
    assert begun[0].status == 202, begun
    return str(begun[0].body["id"])


def promotion_of(service: ThrowawayService, model: str, id: str) -> dict[str, Any]:
    shown = service.call("GET", f"/v1/models/{model}/promotions/{id}")
    assert shown.status == 200, shown
    view: dict[str, Any] = shown.body
    return view


def ended(service: ThrowawayService, model: str, id: str) -> dict[str, Any]:
    """Promotion once it has ended."""
    wait_until(lambda: promotion_of(service, model, id)["state"] in ENDS, 60)
    return promotion_of(service, model, id)


def at_step(service: ThrowawayService, model: str, id: str, step: str) -> dict[str, Any]:
    """Promotion once it has entered a step."""

    def is_there() -> bool:
        steps = promotion_of(service, model, id)["steps"]
        return bool(steps) and steps[-1]["step"] == step

    wait_until(is_there, 60)
    return promotion_of(service, model, id)


def statuses(service: ThrowawayService, model: str) -> dict[str, str]:
    versions = service.call("GET", f"/v1/models/{model}").body["versions"]
    return {each["version"]: each["status"] for each in versions}
