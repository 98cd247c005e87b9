"""Models in memory: bounded by bytes, live ones pinned, one load for all that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import pytest

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.errors import Conflict, LimitReached, ModelLost
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.models.family import load_model
from bandit_serve.models.popularity import Popularity
from bandit_serve.registry.registry import MOVES, SERVABLE, Version, VersionStatus
from bandit_serve.server.problems import problem
from bandit_serve.serving import kinds
from bandit_serve.serving import loaded as module
from bandit_serve.serving.kinds import VersionOpener
from bandit_serve.serving.loaded import LoadedModels
from bandit_serve.serving.servable import Servable
from bandit_serve.serving.top_k_cache import TopKCache

N = 5


class Shelf:
    """Versions v0 … of a model, whose artifacts are in a store."""

    def __init__(self, directory: Path) -> None:
        self.artifacts = ArtifactStore(directory / "artifacts")
        self.versions = []
        for i in range(N):
            path = directory / f"{i}.safetensors"
            model = Popularity().fit([1] * (i + 50), range(i + 50), [1.0] * (i + 50))
            model.save(path)
            sha256, _ = self.artifacts.put(path)
            self.versions.append(version(f"v{i}", sha256))
        self.size = load_model(self.artifacts.open(self.versions[-1].sha256)).nbytes

    def models(self, room: float) -> LoadedModels:
        """With room for so many of the models that are not live."""
        return LoadedModels(
            VersionOpener(self.artifacts, TopKCache(None, lifetime_s=1.0)), max_bytes=int(self.size * room)
        )


def version(name: str, sha256: str, status: VersionStatus = "staged") -> Version:
    return Version("m", name, status, sha256, 1, "popularity", 1, 1)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("models"))


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario())


def score(loaded: Servable) -> object:
    return loaded.score(ScoreRequest(user_id="1", item_id="0"))


def held(models: LoadedModels) -> list[str]:
    return [name for name in (f"v{i}" for i in range(N)) if ("m", name) in models._models]


def test_the_least_recently_used_leaves_first(shelf: Shelf) -> None:
    async def scenario() -> None:
        models = shelf.models(3)
        for each in shelf.versions[:3]:
            await models.load(each)
        assert held(models) == ["v0", "v1", "v2"]
        assert models.get("m", "v0") is not None
        await models.load(shelf.versions[3])
        await models.load(shelf.versions[4])
        assert "v0" in held(models)
        assert "v1" not in held(models)
        assert {"v3", "v4"} <= set(held(models))
        assert models.nbytes <= shelf.size * 4, "what is kept, and the one that just came"
        assert models.get("m", "v1") is None

    run(scenario)


def test_what_takes_live_traffic_never_leaves(shelf: Shelf) -> None:
    async def scenario() -> None:
        models = shelf.models(0)
        models.keep_live(frozenset({("m", "v0"), ("m", "v1")}))
        for each in shelf.versions:
            await models.load(each)
        assert held(models) == ["v0", "v1", "v4"]
        models.keep_live(frozenset({("m", "v1")}))
        assert held(models) == ["v1"]

    run(scenario)


def test_a_model_is_served_even_when_it_alone_is_over_the_bound(shelf: Shelf) -> None:
    async def scenario() -> None:
        models = shelf.models(0)
        loaded = await models.load(shelf.versions[0])
        assert score(loaded) == {"prediction": 1.0}

    run(scenario)


def test_tenants_share_the_memory_and_the_largest_gives_way(shelf: Shelf) -> None:
    async def scenario() -> None:
        own = shelf.models(4)
        other = LoadedModels(
            VersionOpener(shelf.artifacts, TopKCache(None, lifetime_s=1.0)), max_bytes=0, beside=own
        )
        await own.load(shelf.versions[0])
        for each in shelf.versions:
            await other.load(each)
        assert held(own) == ["v0"], "it has less than half"
        assert own.nbytes + other.nbytes <= shelf.size * 5
        assert len(held(other)) >= 3
        for each in shelf.versions:
            await own.load(each)
        assert len(held(other)) >= 1
        await own.close()
        await other.close()

    run(scenario)


def test_a_limit_holds_for_live_models_too(shelf: Shelf) -> None:
    async def scenario() -> None:
        opener = VersionOpener(shelf.artifacts, TopKCache(None, lifetime_s=1.0))
        models = LoadedModels(opener, max_bytes=2**30, limit_bytes=2 * shelf.size)
        sized = [msgspec.structs.replace(each, size=shelf.size) for each in shelf.versions]
        models.keep_live(frozenset({("m", "v0"), ("m", "v1")}))
        for each in sized[:2]:
            await models.load(each)
        with pytest.raises(LimitReached):
            await models.load(sized[2])
        models.keep_live(frozenset({("m", "v0")}))
        await models.load(sized[2])
        assert models.nbytes <= 2 * shelf.size
        await models.close()

    run(scenario)


def test_those_who_ask_together_wait_for_one_load(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    real = load_model

    def counted(artifact: object) -> object:
        loads.append(artifact)
        return real(artifact)  # type: ignore[arg-type]

    monkeypatch.setattr(kinds, "load_model", counted)

    async def scenario() -> None:
        models = shelf.models(9)
        results = await asyncio.gather(*(models.load(shelf.versions[0]) for _ in range(20)))
        assert len(loads) == 1
        assert all(model is results[0] for model in results)
        assert await models.load(shelf.versions[0]) is results[0]
        assert len(loads) == 1

    run(scenario)


def test_one_who_leaves_takes_nothing_from_the_others(shelf: Shelf) -> None:
    async def scenario() -> None:
        models = shelf.models(9)
        leaves, stays = (asyncio.create_task(models.load(shelf.versions[0])) for _ in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        assert score(await stays) == {"prediction": 1.0}

    run(scenario)


def test_a_load_that_failed_does_not_fail_one_later(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOST_REST_S", 0.0)

    async def scenario() -> None:
        models = shelf.models(9)
        path = shelf.artifacts.path(shelf.versions[0].sha256)
        hidden = path.with_suffix(".hidden")
        path.rename(hidden)
        try:
            failures = await asyncio.gather(
                *(models.load(shelf.versions[0]) for _ in range(3)), return_exceptions=True
            )
            assert all(isinstance(failure, ModelLost) for failure in failures)
            assert len(models) == 0
        finally:
            hidden.rename(path)
        assert score(await models.load(shelf.versions[0])) == {"prediction": 1.0}

    run(scenario)


def test_an_artifact_that_was_damaged_since_is_an_error_of_ours(shelf: Shelf) -> None:
    async def scenario() -> None:
        path = shelf.artifacts.path(shelf.versions[1].sha256)
        whole = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(whole[:-1])
        try:
            with pytest.raises(ModelLost, match="m v1 is missing or damaged") as raised:
                await shelf.models(9).load(shelf.versions[1])
            assert problem(raised.value).status == 503
        finally:
            path.write_bytes(whole)

    run(scenario)


@pytest.mark.parametrize("status", MOVES)
def test_only_what_can_serve_is_loaded(shelf: Shelf, status: VersionStatus) -> None:
    async def scenario() -> None:
        models = shelf.models(9)
        asked = version("v0", shelf.versions[0].sha256, status)
        if status in SERVABLE:
            await models.load(asked)
        else:
            with pytest.raises(Conflict, match=status):
                await models.load(asked)

    run(scenario)
