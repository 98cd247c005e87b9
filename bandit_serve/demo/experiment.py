"""Experiment of the demo, whose arms are recommenders."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandit_serve.demo.recommender import Recommender

if TYPE_CHECKING:
    from bandit_serve.client import Client, Results

MODEL = "recommender"
METRIC = "liked"
MIN_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class DemoExperiment:
    """Running experiment. `versions` are those of MODEL, one for each arm, in order."""

    client: Client
    name: str
    arms: tuple[str, ...]
    versions: tuple[str, ...]

    @classmethod
    async def start(cls, client: Client, recommenders: Sequence[Recommender]) -> DemoExperiment:
        versions = tuple([await _register(client, recommender) for recommender in recommenders])
        arms = tuple(recommender.arm for recommender in recommenders)
        name = await _free_name(client)
        await client.experiments.create(_experiment(name, arms, versions))
        await client.experiments.start(name)
        return cls(client, name, arms, versions)

    async def results(self) -> Results:
        """Reads the results; they include every acknowledged reward."""
        return await self.client.experiments.results(self.name)


async def _register(client: Client, recommender: Recommender) -> str:
    with tempfile.TemporaryDirectory(prefix="bandit-serve-") as folder:
        path = Path(folder) / "model.safetensors"
        recommender.model.save(path)
        metadata = {"arm": recommender.arm, "about": recommender.about}
        registered = await client.models.register(MODEL, path, metadata=metadata)
    return registered.version


async def _free_name(client: Client) -> str:
    """First free name among `demo`, `demo-2`, `demo-3`, …."""
    taken = {experiment.id for experiment in await client.experiments.list()}
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
