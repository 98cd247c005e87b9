"""Publishing that is interrupted: whoever tries again goes on where it was."""

import asyncio
from functools import partial

import pytest
from commands import save_model
from stores import ThrowawayStore

from bandit_serve.changes.models import ModelChanges
from bandit_serve.cli.learn import _begin
from bandit_serve.errors import StoreUnavailable
from bandit_serve.models import Artifact, load_model
from bandit_serve.node import Node
from bandit_serve.registry.promotions import PromotionPlan
from bandit_serve.settings import Settings
from bandit_serve.training.gates import Gate
from bandit_serve.training.learning.publisher import METRIC, Publication, Publisher

PUBLICATION = Publication(Gate(f"{METRIC} < 9"), production=Gate(f"{METRIC} < 9"))
CUTS = {"staging": (ModelChanges, "set_status"), "promotion": (Publisher, "_promote")}


async def unreachable(*_, **__):
    raise StoreUnavailable("cut")


@pytest.mark.parametrize("cut", CUTS)
def test_a_version_becomes_what_it_was_to_be(tmp_path, monkeypatch, cut):
    async def scenario(url):
        node = Node(Settings(data=str(tmp_path / "data")), url)
        await node.tail.load()
        tail = asyncio.create_task(node.tail.run())
        changes, file = node.model_changes, save_model(tmp_path / "model")
        await changes.register("m", file, "test", metrics={}, metadata={})

        async def publish():
            publisher = Publisher(node, "m", PUBLICATION, tmp_path, "test", lambda _: None)
            await publisher.publish("v1-learned-5", load_model(Artifact.map(file)), {METRIC: 1.0}, {})

        with monkeypatch.context() as interrupted:
            interrupted.setattr(*CUTS[cut], unreachable)
            with pytest.raises(StoreUnavailable):
                await publish()
        for _ in range(2):
            await publish()
            model = (await changes.known()).models["m"]
            assert model.production == "v1-learned-5"
            assert list(model.versions) == ["v1", "v1-learned-5"]
        tail.cancel()
        await asyncio.gather(tail, return_exceptions=True)
        await node.store.close()

    with ThrowawayStore(appendfsync="no") as store:
        asyncio.run(scenario(store.url))


def test_a_staged_version_begins_its_way_once_and_one_after_the_other(tmp_path):
    said = []

    async def scenario(url):
        node = Node(Settings(data=str(tmp_path / "data")), url)
        await node.tail.load()
        tail = asyncio.create_task(node.tail.run())
        changes, file = node.model_changes, save_model(tmp_path / "model")
        await changes.register("m", file, "test", metrics={METRIC: 2.0}, metadata={})
        await changes.set_status("m", "v1", "production", "test")
        plan = PromotionPlan(offline=f"{METRIC} < current.{METRIC}")
        publication = Publication(Gate(f"{METRIC} < 9"), begin=partial(_begin, node, "m", plan))
        publisher = Publisher(node, "m", publication, tmp_path, "test", said.append)
        for name in ("first", "first", "second"):
            await publisher.publish(name, load_model(Artifact.map(file)), {METRIC: 1.0}, {})
        (promotion,) = (await changes.known()).promotions["m"]
        assert (promotion.version, promotion.state) == ("first", "offline")
        tail.cancel()
        await asyncio.gather(tail, return_exceptions=True)
        await node.store.close()

    with ThrowawayStore(appendfsync="no") as store:
        asyncio.run(scenario(store.url))
    assert [text for text in said if "promot" in text] == [
        "first is promoted by steps: p1.",
        "first has the promotion p1.",
        "second is not promoted: The promotion p1 of 'm' is under way, with first: wait for its end, or cancel it.",
    ]
