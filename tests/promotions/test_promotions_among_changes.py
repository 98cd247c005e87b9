"""Promotions among the changes of others: arms that are removed, experiments that change, or are gone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import experiment
from commands import save_model
from stores import ThrowawayStore

from bandit_serve.changes import changes
from bandit_serve.errors import Conflict, InvalidInput, NotInstalled
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import MAX_METRICS, Arm
from bandit_serve.node import Node
from bandit_serve.promotions.judgement import StepJudgement
from bandit_serve.promotions.offline import judge_offline
from bandit_serve.promotions.promoter import Promoter
from bandit_serve.promotions.promoting import Promoting
from bandit_serve.promotions.ramp import exposures_of, judge_ramp, strays, take_back
from bandit_serve.registry.promotions import Promotion, PromotionPlan, promotion_in
from bandit_serve.settings import Settings

V1 = {"name": "control", "model": "m", "version": "v1"}
V2 = {"name": "next", "model": "m", "version": "v2"}
RAMP = {"ramp": {"steps": [0.5], "each": "1h"}, "experiment": "e"}


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


Work = Callable[[Node], Awaitable[None]]


@pytest.fixture
def tried(server: ThrowawayStore, tmp_path: Path) -> Callable[..., None]:
    """Function that does some work with a node: model m, v1 of it in production, and experiment e that runs."""
    server.flush()

    async def run(work: Work, fields: dict[str, Any]) -> None:
        node = Node(Settings(data=str(tmp_path / "data")), server.url)
        await node.tail.load()
        tail = asyncio.create_task(node.tail.run())
        try:
            file = save_model(tmp_path / "model")
            for version in ("v1", "v2"):
                await node.model_changes.register("m", file, "test", version=version, metrics={}, metadata={})
            await node.model_changes.set_status("m", "v1", "production", "test")
            await node.experiment_changes.create(experiment(**fields), "test")
            await node.experiment_changes.start("e", "test")
            await work(node)
        finally:
            tail.cancel()
            await asyncio.gather(tail, return_exceptions=True)
            await node.store.close()

    return lambda work, **fields: asyncio.run(run(work, {"arms": [V1], **fields}))


async def begun(node: Node, plan: dict[str, Any] = RAMP) -> Promotion:
    return await Promoting(node).begin("m", "v2", msgspec.convert(plan, PromotionPlan), "test")


async def on_ramp(node: Node) -> Promotion:
    """Promotion at the first step of its ramp, with nothing changed in the experiment yet."""
    promotion = await begun(node)
    assert await Promoting(node).enter(promotion, await exposures_of(node, promotion))
    return promotion_in((await node.model_changes.known()).promotions, "m", promotion.id)


async def statuses(node: Node) -> dict[str, str]:
    return dict((await node.experiment_changes.known("e")).record.arm_statuses)


async def held(node: Node) -> dict[str, float]:
    return dict((await node.experiment_changes.known("e")).record.held)


def test_an_arm_that_was_held_and_then_removed_does_not_come_back(tried: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        promotion = await on_ramp(node)
        assert await judge_ramp(node, promotion) is None
        assert await held(node) == {"next": 0.5}
        await node.experiment_changes.remove_arm("e", "next", "operator")
        judgement = await judge_ramp(node, promotion)
        assert judgement is not None
        assert not judgement.passed
        assert judgement.reason == "The arm next was removed."
        assert await statuses(node) == {"control": "active", "next": "removed"}

    tried(work, arms=[V1, V2])


HOLDOUT = {"kind": "thompson", "holdout": 0.2}
IMPOSSIBLE: dict[str, tuple[dict[str, Any], list[float], str]] = {
    "two arms of the version": ({"arms": [V1, V2, V2 | {"name": "again"}]}, [0.5], "plan.experiment"),
    "units keep the version": (
        {"arms": [V1, V2], "unit": "user", "keep_assigned": True},
        [0.5],
        "plan.experiment",
    ),
    "less than the holdout": ({"policy": HOLDOUT}, [0.05, 0.5], "plan.ramp.steps[0]"),
    "less than the holdout, with an arm": (
        {"arms": [V1, V2], "policy": HOLDOUT | {"holdout": 0.5}},
        [0.2, 0.3],
        "plan.ramp.steps[0]",
    ),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_an_experiment_that_would_not_hold_the_share_is_refused(
    tried: Callable[..., None], what: str
) -> None:
    fields, steps, at = IMPOSSIBLE[what]

    async def work(node: Node) -> None:
        with pytest.raises(InvalidInput) as caught:
            await begun(node, {"ramp": {"steps": steps}, "experiment": "e"})
        assert [each.at for each in caught.value.errors] == [at]
        assert not (await node.model_changes.known()).promotions.get("m")

    tried(work, **fields)


def test_a_removed_arm_and_a_step_of_the_holdout_are_no_obstacle(tried: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        await node.experiment_changes.remove_arm("e", "again", "operator")
        promotion = await begun(node, {"ramp": {"steps": [0.1, 0.5]}, "experiment": "e"})
        assert promotion.state == "ramp"

    tried(work, arms=[V1, V2, V2 | {"name": "again"}], policy=HOLDOUT)


@pytest.mark.parametrize("arms", [[V1], [V1, V2]], ids=["a new arm", "an arm that is there"])
def test_a_ramp_that_meets_the_changes_of_others_tries_again(
    tried: Callable[..., None], monkeypatch: pytest.MonkeyPatch, arms: list[dict[str, Any]]
) -> None:
    async def work(node: Node) -> None:
        promotion = await on_ramp(node)
        with monkeypatch.context() as others:
            # As when every try meets somebody else's change.
            others.setattr(changes, "MAX_ATTEMPTS", 0)
            with pytest.raises(Conflict, match="being changed by others"):
                await node.experiment_changes.pause("e", "operator")
            assert await judge_ramp(node, promotion) is None
        assert await held(node) == {}
        assert await judge_ramp(node, promotion) is None
        assert list((await held(node)).values()) == [0.5]

    tried(work, arms=arms)


def test_a_ramp_without_room_for_its_guardrails_stops(tried: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        promotion = await on_ramp(node)
        present = len((await node.experiment_changes.known("e")).experiment.metrics)
        for k in range(MAX_METRICS - present):
            await node.experiment_changes.add_metric("e", Metric(name=f"m{k}", kind="binary"), "operator")
        judgement = await judge_ramp(node, promotion)
        assert judgement is not None
        assert not judgement.passed
        assert "no room for the guardrails" in judgement.reason
        assert await statuses(node) == {"control": "active"}

    tried(work)


@pytest.mark.parametrize("arms", [[V1], [V1, V2]], ids=["a new arm", "an arm that is there"])
def test_an_arm_that_came_after_the_end_is_taken_back(
    tried: Callable[..., None], arms: list[dict[str, Any]]
) -> None:
    async def work(node: Node) -> None:
        promotion = await on_ramp(node)
        promoting = Promoting(node)
        ended = await promoting.cancel("m", promotion.id, "operator", None)
        assert await promoting.settled(ended)
        # As a worker does it that was held up before this, and then killed.
        if len(arms) == 1:
            new = Arm(promotion.arm, "m", "v2")
            await node.experiment_changes.add_arm("e", new, promotion.actor, held=0.5)
        else:
            await node.experiment_changes.hold_arm("e", "next", 0.5, promotion.actor)
        expected = {"control": "active"}
        expected |= {promotion.arm: "removed"} if len(arms) == 1 else {"next": "active"}
        promoter = asyncio.create_task(Promoter(node, lambda: True).run())
        try:
            async with asyncio.timeout(60):
                while await statuses(node) != expected or "next" in await held(node):
                    await asyncio.sleep(0.05)
        finally:
            promoter.cancel()
            await asyncio.gather(promoter, return_exceptions=True)
        now = promotion_in((await node.model_changes.known()).promotions, "m", promotion.id)
        assert not now.is_open

    tried(work, arms=arms)


@pytest.mark.parametrize("end", ["cancelled", "stopped"])
def test_an_arm_that_another_promotion_holds_is_left_alone(tried: Callable[..., None], end: str) -> None:
    async def work(node: Node) -> None:
        promoting, judged = Promoting(node), StepJudgement(False, "It failed.", {})
        first = await on_ramp(node)
        assert await judge_ramp(node, first) is None
        assert await held(node) == {"next": 0.5}
        if end == "stopped":
            assert await promoting.stop(first, judged)
        else:
            await promoting.cancel("m", first.id, "operator", None)
        first = promotion_in((await node.model_changes.known()).promotions, "m", first.id)
        await take_back(node, first)
        assert await promoting.settled(first)
        if end == "stopped":
            await node.experiment_changes.resume_arm("e", "next", "operator", reason="It was looked at.")
        second = await on_ramp(node)
        assert await judge_ramp(node, second) is None
        live = await node.experiment_changes.known("e")
        first = promotion_in((await node.model_changes.known()).promotions, "m", first.id)
        assert strays([live], node.replica.registry.promotions) == []
        await take_back(node, first)
        assert await held(node) == {"next": 0.5}
        assert await statuses(node) == {"control": "active", "next": "active"}
        await node.experiment_changes.stop("e", "operator")
        await promoting.cancel("m", second.id, "operator", None)
        second = promotion_in((await node.model_changes.known()).promotions, "m", second.id)
        assert await promoting.settled(second)
        await node.experiment_changes.known("e")
        assert strays(node.replica.experiments.values(), node.replica.registry.promotions) == []

    tried(work, arms=[V1, V2])


def test_without_the_library_of_gates_a_plan_is_not_wrong(
    tried: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(node: Node) -> None:
        with monkeypatch.context() as bare:
            bare.setitem(sys.modules, "cel_expr_python.cel", None)
            with pytest.raises(NotInstalled, match="bandit-serve\\[gates\\]"):
                await begun(node, {"offline": "rmse < 1"})
            assert (await begun(node)).state == "ramp"

    tried(work)


def test_a_log_that_was_deleted_stops_the_offline_step(tried: Callable[..., None]) -> None:
    async def work(node: Node) -> None:
        promotion = await begun(node, {"offline": "off_policy.gain_lower > 0", "experiment": "e"})
        await node.experiment_changes.stop("e", "operator")
        await node.experiment_changes.delete("e", "operator")
        judgement = await judge_offline(node, promotion)
        assert not judgement.passed
        assert judgement.reason == "The experiment e was deleted."

    tried(work, arms=[V1, V2])
