"""Shadows: whatever a version of any kind raises, its requests have failed and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from builders import eventually

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.decisions import shadows as module
from bandit_serve.decisions.shadows import Shadows
from bandit_serve.registry.agreement import Agreement, report
from bandit_serve.registry.registry import Version
from bandit_serve.serving.servable import BackgroundScores

ASKED = ScoreRequest(user_id="u", item_id="i")


class Raising:
    """Version whose background scores are an error of its own."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def score_all(self, requests: Sequence[ScoreRequest]) -> list[BackgroundScores]:
        raise self._error


class Giving:
    """Version that gives the same fields to all."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    async def score_all(self, requests: Sequence[ScoreRequest]) -> list[BackgroundScores]:
        return [BackgroundScores(self._fields, 0.001) for _ in requests]


class Unloadable:
    """Models in memory, of which some can not be got there."""

    def __init__(self, **versions: Any) -> None:
        self._versions = versions

    def get(self, model: str, version: str) -> Any:
        return self._versions[version]

    async def load(self, version: Version) -> Any:
        raise RuntimeError("a fault in loading")


@pytest.mark.parametrize(
    "bad",
    [
        Raising(RecursionError("too deep")),
        Raising(ZeroDivisionError()),
        Giving(items=[{"item_id": "a"}]),
        Giving(predictions=[1.0]),
        None,
    ],
)
def test_whatever_one_shadow_raises_is_counted_and_the_others_go_on(
    bad: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPORT_S", 0.01)
    written: dict[str, Agreement] = {}

    async def write(model: str, version: str, incarnation: int, state: bytes) -> None:
        written[version] = msgspec.msgpack.decode(state, type=Agreement)

    versions = {name: Version("m", name, "shadow", "", 0, "toy", 1, 1) for name in ("bad", "good")}
    replica: Any = SimpleNamespace(
        registry=SimpleNamespace(revision=1, models={"m": SimpleNamespace(versions=versions)})
    )
    store: Any = SimpleNamespace(write_agreement=write)
    models: Any = Unloadable(bad=bad, good=Giving(prediction=0.5))
    shadows = Shadows(store, replica, models, 1)
    answer = {"prediction": 1.0, "predictions": [1.0, 2.0], "items": []}
    if not isinstance(bad, Raising | None):
        del answer["prediction"]
        models._versions["good"] = Giving(predictions=[1.0, 2.0])

    async def scenario() -> None:
        running = asyncio.create_task(shadows.run())
        for n in (1, 2, 3):
            shadows.ask("m", "live", ASKED, answer)
            await eventually(
                lambda n=n: {each: sums.failed for each, sums in written.items()} == {"bad": n, "good": 0}
            )
            assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert written["good"].scores > 0


def test_agreement_of_scores_near_the_largest_can_be_shown() -> None:
    sums = Agreement()
    sums.add_scores([1e200, -1e300, 1.0], [1.0, 1e300, 2.0])
    shown = report("m", "v", sums)
    assert shown.scores == 3
    msgspec.json.encode(shown)
