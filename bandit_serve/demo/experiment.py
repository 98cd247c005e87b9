"""Experiment of the demo, whose arms are recommenders."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandit_serve.demo.recommender import Recommender

if TYPE_CHECKING:
    from bandit_serve.demo.client import Http

MODEL = "recommender"
METRIC = "liked"
MIN_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class DemoExperiment:
    """Running experiment. `versions` are those of MODEL, one for each arm, in order."""

    http: Http
    name: str
    arms: tuple[str, ...]
    versions: tuple[str, ...]

    @classmethod
    async def start(cls, http: Http, recommenders: Sequence[Recommender]) -> DemoExperiment:
        versions = tuple([await _register(http, recommender) for recommender in recommenders])
        arms = tuple(recommender.arm for recommender in recommenders)
        name = await _free_name(http)
        await http.post("/v1/experiments", _experiment(name, arms, versions))
        await http.post(f"/v1/experiments/{name}/start")
        return cls(http, name, arms, versions)

    async def results(self) -> Any:
        """Reads the results; they include every acknowledged reward."""
        return await self.http.get(f"/v1/experiments/{self.name}/results")


async def _register(http: Http, recommender: Recommender) -> str:
    with tempfile.TemporaryDirectory(prefix="bandit-serve-") as folder:
        path = Path(folder) / "model.safetensors"
        recommender.model.save(path)
        metadata = {"metadata": {"arm": recommender.arm, "about": recommender.about}}
        registered = await http.upload(f"/v1/models/{MODEL}/versions", metadata, path.read_bytes())
    return str(registered["version"])


async def _free_name(http: Http) -> str:
    """First free name among `demo`, `demo-2`, `demo-3`, …."""
    taken = {experiment["id"] for experiment in (await http.get("/v1/experiments"))["experiments"]}
    return next(
        name for n in range(1, len(taken) + 2) if (name := "demo" if n == 1 else f"demo-{n}") not in taken
    )


def _experiment(name: str, arms: tuple[str, ...], versions: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id": name,
        "arms": [
            {"name": arm, "model": MODEL, "version": version}
            for arm, version in zip(arms, versions, strict=True)
        ],
        "control": arms[0],
        "unit": "request",
        "policy": {"kind": "thompson", "min_share": MIN_SHARE},
        "metrics": [{"name": METRIC, "kind": "binary", "goal": "maximize", "role": "objective"}],
        # Every visit sends its reward, a 0 too, and at once: none is missing, so none is to be waited for.
        "attribution": {"window": "1h", "missing": "ignore"},
    }
