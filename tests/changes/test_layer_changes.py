"""Slots of layers through changes that race with each other, and through those that were interrupted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import experiment
from stores import ThrowawayStore

from bandit_serve.changes.layers import UNSETTLED_MS, settle, take, unsettled
from bandit_serve.errors import BanditServeError, Conflict, UnreadableEntry
from bandit_serve.experiments.layer import Layer
from bandit_serve.experiments.spec import Experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Change, Changed
from bandit_serve.node import Node
from bandit_serve.registry.layers import release
from bandit_serve.settings import Settings


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: ThrowawayStore) -> None:
    server.flush()


@contextlib.asynccontextmanager
async def nodes(server: ThrowawayStore, data: Path, n: int) -> AsyncIterator[list[Node]]:
    made = [Node(Settings(data=str(data)), server.url) for _ in range(n)]
    tasks = []
    for node in made:
        await node.tail.load()
        tasks.append(asyncio.create_task(node.tail.run()))
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in made:
            await node.store.close()


def tried(server: ThrowawayStore, data: Path, work: Callable[..., Awaitable[None]], n: int = 1) -> None:
    async def run() -> None:
        async with nodes(server, data, n) as made:
            await work(*made)

    asyncio.run(run())


def layered(name: str, share: float, layer: str = "page") -> Experiment:
    return experiment(id=name, layer={"name": layer, "share": share})


def slots(node: Node, layer: str = "page") -> dict[str, int]:
    holdings = node.replica.registry.layers.get(layer, {})
    return {each.owner: each.n_slots for each in holdings.values()}


def later(node: Node) -> int:
    return node.store.clock.now_ms() + UNSETTLED_MS + 1_000


async def settled(node: Node, now_ms: int | None = None) -> None:
    await settle(node.changes, node.replica, later(node) if now_ms is None else now_ms)


def test_of_changes_at_once_no_more_succeed_than_there_is_room_for(
    server: ThrowawayStore, tmp_path: Path
) -> None:
    async def work(here: Node, there: Node) -> None:
        both = [here, there]
        made = await asyncio.gather(
            *(both[i % 2].experiment_changes.create(layered(f"e{i}", 0.3), "test") for i in range(6)),
            return_exceptions=True,
        )
        refused = [each for each in made if not isinstance(each, LiveExperiment)]
        assert len(made) - len(refused) == 3
        assert all(isinstance(each, Conflict) for each in refused)
        namesakes = await asyncio.gather(
            *(node.experiment_changes.create(layered("same", 0.04), "test") for node in both),
            return_exceptions=True,
        )
        assert sum(isinstance(each, Conflict) for each in namesakes) == 1, namesakes
        for node in both:
            await node.tail.refresh_all()
            assert sorted(slots(node).values()) == [400, 3_000, 3_000, 3_000]
            assert list(unsettled(node.replica, later(node))) == []

    tried(server, tmp_path, work, n=2)


def test_what_a_creation_took_that_was_interrupted_is_freed_later(
    server: ThrowawayStore, tmp_path: Path
) -> None:
    async def work(node: Node) -> None:
        await take(node.changes, Layer("page", 0.7), "never", 99, "test")
        await settled(node, node.store.clock.now_ms())
        assert slots(node) == {"never": 7_000}, "it may be under way"
        await settled(node)
        assert slots(node) == {}

    tried(server, tmp_path, work)


def changed(status: Any = None, share: float | None = None) -> Callable[[LiveExperiment], Changed]:
    """A change of an experiment's own log alone, as one that is interrupted after it."""

    def decide(live: LiveExperiment) -> Changed:
        record = live.record
        made = record.experiment if share is None else layered(record.experiment.id, share)
        return Changed(
            msgspec.structs.replace(
                record, experiment=made, status=status or record.status, revision=record.revision + 1
            ),
            Change("stop" if status else "layer", "test"),
        )

    return decide


def test_an_interrupted_stop_frees_later_what_it_had(server: ThrowawayStore, tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        for name in ("one", "other"):
            await node.experiment_changes.create(layered(name, 0.5), "test")
        await node.changes.change_experiment("one", changed(status="stopped"))
        assert slots(node) == {"one": 5_000, "other": 5_000}
        await settled(node)
        assert slots(node) == {"other": 5_000}

    tried(server, tmp_path, work)


def test_an_interrupted_change_of_the_share_is_carried_out_where_there_is_room(
    server: ThrowawayStore, tmp_path: Path
) -> None:
    async def work(node: Node) -> None:
        for name in ("one", "other"):
            await node.experiment_changes.create(layered(name, 0.3), "test")
        await node.changes.change_experiment("one", changed(share=0.8))
        await settled(node)
        assert slots(node) == {"one": 3_000, "other": 3_000}
        await node.experiment_changes.change_layer("other", 0.2, "test")
        await settled(node)
        assert slots(node) == {"one": 8_000, "other": 2_000}
        await node.changes.change_experiment("one", changed(share=0.1))
        await settled(node)
        assert slots(node) == {"one": 1_000, "other": 2_000}

    tried(server, tmp_path, work)


def test_an_experiment_that_lost_its_slots_gets_others(server: ThrowawayStore, tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        live = await node.experiment_changes.create(layered("one", 0.3), "test")
        uid = live.record.uid
        await node.changes.change_layer(lambda registry: release(registry.layers, "page", uid, "test"))
        assert slots(node) == {}
        await settled(node, live.record.updated_ms + UNSETTLED_MS + 1_000)
        assert slots(node) == {"one": 3_000}

    tried(server, tmp_path, work)


def test_what_an_experiment_has_that_is_set_aside_stays(server: ThrowawayStore, tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        live = await node.experiment_changes.create(layered("one", 0.3), "test")
        node.replica.put_aside("one", UnreadableEntry("broken"), live.offset)
        await settled(node)
        assert slots(node) == {"one": 3_000}
        node.replica.aside["one"] = node.replica.aside["one"]._replace(record=None)
        await settled(node)
        assert slots(node) == {"one": 3_000}

    tried(server, tmp_path, work)


def test_slots_are_given_back_only_when_the_experiment_says_so(
    server: ThrowawayStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a refused change gave back before, another experiment could take meanwhile."""

    async def work(node: Node) -> None:
        changes = node.experiment_changes
        live = await changes.create(layered("one", 1.0), "test")
        change = node.changes.change_experiment

        async def after_another(*arguments: Any) -> LiveExperiment:
            with pytest.raises(Conflict):
                await changes.create(layered("other", 0.5), "test")
            monkeypatch.undo()
            await node.changes.change_experiment("one", changed(share=1.0))
            return await change(*arguments)

        monkeypatch.setattr(node.changes, "change_experiment", after_another)
        with pytest.raises(BanditServeError) as refused:
            await changes.change_layer("one", 0.4, "test", if_match=live.etag)
        assert not getattr(refused.value, "__notes__", [])
        assert slots(node) == {"one": 10_000}
        await changes.change_layer("one", 0.4, "test")
        assert slots(node) == {"one": 4_000}
        await changes.create(layered("other", 0.6), "test")

    tried(server, tmp_path, work)


def test_a_refused_change_leaves_what_was_there(server: ThrowawayStore, tmp_path: Path) -> None:
    async def work(node: Node) -> None:
        changes = node.experiment_changes
        await changes.create(layered("one", 0.3), "test")
        live = await changes.create(layered("draft", 0.2, "search"), "test")
        for refused in (
            changes.put("draft", layered("draft", 0.8), "test"),
            changes.put("draft", layered("draft", 0.1), "test", if_match=live.etag + 1),
            changes.change_layer("draft", 0.5, "test", layer="page"),
            changes.change_layer("draft", 0.5, "test", if_match=live.etag + 1),
        ):
            with pytest.raises(BanditServeError):
                await refused
            assert slots(node) == {"one": 3_000}
            assert slots(node, "search") == {"draft": 2_000}
        await changes.put("draft", layered("draft", 0.7), "test")
        assert (slots(node), slots(node, "search")) == ({"one": 3_000, "draft": 7_000}, {})
        await changes.delete("draft", "test")
        assert slots(node) == {"one": 3_000}

    tried(server, tmp_path, work)
